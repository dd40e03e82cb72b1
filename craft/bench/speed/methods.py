"""One training step of CRAFT beside LoRA, a frozen backbone and naive reconstruction: time, saved
activations, launches."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from tensorly import backend_context
from tensorly.tucker_tensor import tucker_to_tensor
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from craft.bench.glue.tokens import Tokens
from craft.bench.model.locate import locate
from craft.bench.run.execute import prepare
from craft.bench.settings.sections import TrainSettings
from craft.bench.speed.measure import Figure, Findings, clock_of, figure, interleaved, ratio
from craft.bench.speed.subjects import Setup
from craft.bench.training.batches import Batch, batches, layout_of
from craft.bench.training.loop import Seeds
from craft.bench.training.step import autocast, frozen_casts, loss_of, make_optimizer
from craft.tuners.sandwich.layer import SandwichLayer
from craft.tuners.sandwich.model import SandwichModel

# rows, tokens a row, precision; the first is where naive reconstruction costs most
LOADS = ((8, 32, "bf16"), (8, 32, "fp32"), (32, 64, "bf16"))
VARIANTS = ("craft", "lora", "frozen", "naive")
REBUILDING = (
    "naive reconstruction adds about as much time to a step in either precision; steps in fp32 are "
    "longer, so that not doing it saves a smaller share of them"
)


@dataclass(frozen=True)
class Subject:
    """A model, a batch and what a step needs besides."""

    model: PeftModel
    batch: Batch
    settings: TrainSettings
    optimizer: torch.optim.Optimizer

    def loss(self) -> Tensor:
        with autocast(self.settings):
            logits = self.model(**self.batch.inputs).logits
        assert self.batch.labels is not None
        return loss_of(logits, self.batch.labels, False, len(self.batch.rows))

    def step(self) -> None:
        self.loss().backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def bench(setup: Setup) -> Findings:
    """Ratios of step times on the same packed batches, dropout on; activations in fp32 and bf16."""
    figures: list[Figure] = []
    facts: dict[str, Any] = {"shape": setup.shape}
    for rows, length, precision in LOADS:
        tried = VARIANTS if rows * length <= 512 else VARIANTS[:3]
        subjects = {v: subject(setup, v, rows, length, precision) for v in tried}
        with casts_of(subjects.values()):
            name = f"{rows} x {length} {precision}"
            found, facts[name] = _compared(name, subjects, setup)
        figures += found
    return Findings(figures, facts, remarks=(REBUILDING,))


def _compared(
    name: str, subjects: dict[str, Subject], setup: Setup
) -> tuple[list[Figure], dict[str, Any]]:
    full = setup.shape in ("base", "large")  # the goals are those of real shapes
    work = {variant: found.step for variant, found in subjects.items()}
    times = interleaved(work, setup.rounds, clock_of(setup.device, setup.threads), settled=True)
    figures = []
    for other, goal in (("lora", 1.05), ("frozen", 1.10), ("naive", 0.70)):
        if other in subjects:
            limit = {"most": goal} if full else {}
            figures.append(ratio(f"{name}: step, craft / {other}", times, "craft", other, **limit))
    figures += [figure(f"{name}: step, {variant}", times[variant], "s") for variant in subjects]
    saved = {variant: saved_bytes(found) for variant, found in subjects.items()}
    share, limit = saved["craft"] / saved["frozen"], {"most": 1.04} if full else {}
    figures.append(Figure(f"{name}: saved activations, craft / frozen", share, **limit))
    launched = {variant: launches(found.step) for variant, found in subjects.items()}
    small = launches(small_matrices(subjects["craft"]))
    alone = launches(small_matrices(subjects["craft"], together=False))
    figures.append(Figure(f"{name}: launches of the small matrices", small, ""))
    figures.append(Figure(f"{name}: launches of the same, layer by layer", alone, ""))
    rate = subjects["craft"].batch.tokens / float(np.median(times["craft"]))
    figures.append(Figure(f"{name}: craft", rate, "tokens/s"))
    return figures, {
        "seconds": times, "saved_bytes": saved, "launches_of_a_step": launched,
        "launches_of_small_matrices": {"together": small, "layer by layer": alone},
        "tokens_per_second": rate,
    }  # fmt: skip


@contextmanager
def casts_of(subjects: Iterable[Subject]) -> Iterator[None]:
    """Frozen weights cast once, as in a run."""
    with ExitStack() as stack:
        for found in subjects:
            stack.enter_context(frozen_casts(found.model))
        yield


def subject(
    setup: Setup, variant: str, rows: int, length: int, precision: str, *more: str
) -> Subject:
    """A variant on one batch of random tokens, all rows of one length."""
    method = {"naive": "craft", "frozen": "head"}.get(variant, variant)
    config = setup.config("rte", method, f"train.precision={precision}", *more)
    backbone = locate(config.model)
    model = prepare(config, backbone, Seeds.of(0))
    if variant == "naive":
        reconstruct_naively(model)
    if variant == "frozen":
        let_gradients_through(model)
    device = torch.device(setup.device)
    model.to(device).train()
    dice = np.random.default_rng(0)
    tokens = Tokens(
        ids=dice.integers(4, model.config.vocab_size, rows * length).astype(np.int32),
        types=None,
        offsets=np.arange(rows + 1) * length,
        labels=dice.integers(0, 2, rows),
        cut=0,
    )
    layout = layout_of(model, 1, "packed", setup.device)
    (batch,) = batches(tokens, np.arange(rows), rows, layout, device)
    settings = replace(config.train, device=setup.device)
    return Subject(model, batch, settings, make_optimizer(model, settings))


def let_gradients_through(model: PeftModel) -> None:
    """Train one bias of the first layer, so that activations have gradients in all layers."""
    for name, parameter in model.named_parameters():
        if name.endswith("layer.0.attention.self.query.bias"):
            parameter.requires_grad_(True)


def reconstruct_naively(model: PeftModel) -> None:
    """CRAFT by its definition: W + (T - R) of all layers, rebuilt with tensorly in every step."""
    tuner: Any = model.base_model
    for group in tuner.groups["default"]:
        made: dict[str, Tensor] = {}
        for index, layer in enumerate(group.layers):
            layer.forward = _naive_forward(tuner, group, layer, index, made)


def _naive_forward(
    tuner: SandwichModel, group: Any, layer: SandwichLayer, index: int, made: dict[str, Tensor]
) -> Callable[..., Tensor]:
    def tensor(moved: bool) -> Tensor:
        def factor(mode: int) -> Tensor:
            u = tuner.tensor("default", group, f"U{mode}")
            return u + u @ tuner.tensor("default", group, f"D{mode}") if moved else u

        core = tuner.tensor("default", group, "core")
        with backend_context("pytorch"), torch.autocast(core.device.type, enabled=False):
            return tucker_to_tensor((core, [factor(mode) for mode in (1, 2, 3)]))

    def forward(x: Tensor) -> Tensor:
        if index == 0:  # the first layer of a forward
            if "R" not in made or made["R"].device != x.device:
                made["R"] = tensor(moved=False).detach()
            made["update"] = tensor(moved=True) - made["R"]
        base = layer.get_base_layer()
        return functional.linear(x, base.weight + made["update"][index], base.bias)

    return forward


def saved_bytes(found: Subject) -> int:
    """What one forward saves for its backward: storages that a second forward does not save, too,
    which leaves out weights and what is kept of them."""
    first, second = {}, {}
    losses = []
    for storages in (first, second):
        with torch.autograd.graph.saved_tensors_hooks(_noting(storages), lambda t: t):
            losses.append(found.loss())  # kept, so that no storage is used twice
    return sum(size for pointer, size in first.items() if pointer not in second)


def _noting(storages: dict[int, int]) -> Callable[[Tensor], Tensor]:
    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep its graph alive

    return note


class _Counter(TorchDispatchMode):
    """Counts operators that compute something: those whose result is a view launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        returned = func._schema.returns
        view = func is torch.ops.aten._unsafe_view.default or any(
            result.alias_info is not None and not result.alias_info.is_write for result in returned
        )
        self.count += func.namespace == "aten" and _holds_tensor(made) and not view
        return made


def _holds_tensor(made: Any) -> bool:
    return isinstance(made, Tensor) or (
        isinstance(made, tuple | list) and any(isinstance(part, Tensor) for part in made)
    )


def launches(work: Callable[[], Any]) -> int:
    """Operators that a piece of work launches, those of its backward included."""
    work()
    with _Counter() as counter:
        work()
    return counter.count


def small_matrices(found: Subject, together: bool = True) -> Callable[[], None]:
    """The small matrices of all layers and projections of a step, and their backward: of a
    projection's layers in one go, as in training, or each layer's by itself."""
    layers = [m for m in found.model.modules() if isinstance(m, SandwichLayer)]
    device, settings = torch.device(found.settings.device), found.settings
    dtype = torch.float32 if settings.precision == "fp32" else torch.bfloat16

    ones: list[Tensor] = []  # made in the first, uncounted round

    def work() -> None:
        made = []
        for layer in layers:
            tuner, group, index = layer.places["default"]
            if together:
                made.append(tuner.small.of_layer(tuner, "default", group, index, device, dtype))
            else:
                made.append(tuner.small_matrices("default", group)[index].to(device, dtype))
        ones.extend(torch.ones_like(matrix) for matrix in made[len(ones) :])
        torch.autograd.backward(made, ones)
        found.optimizer.zero_grad()

    return work
