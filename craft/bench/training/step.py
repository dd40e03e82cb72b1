"""What a step is made of: schedule, loss, optimizer and precision."""

import contextlib
import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from craft.bench.model.build import trained
from craft.bench.settings.sections import TrainSettings
from craft.tuners.sandwich.group import Casts


def learning_rate(peak: float, step: int, warmup: int, total: int) -> float:
    """Linear warm-up from 0 over `warmup` steps, then linear decay to 0 at `total`."""
    if step < warmup:
        return peak * step / warmup
    return peak * max(0, total - step) / max(1, total - warmup)


def steps_in(rows: int, settings: TrainSettings) -> tuple[int, int]:
    """Optimizer steps of one epoch and of the whole run."""
    each = math.ceil(rows / settings.batch_size)
    total = each * settings.epochs
    return each, total if settings.max_steps is None else min(total, settings.max_steps)


def loss_of(logits: Tensor, labels: Tensor, regression: bool, rows: int) -> Tensor:
    """Cross-entropy or squared error, summed and divided by the rows of the global batch."""
    if regression:
        return functional.mse_loss(logits[:, 0].float(), labels.float(), reduction="sum") / rows
    return functional.cross_entropy(logits.float(), labels, reduction="sum") / rows


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over (adapter, head) x (matrices with decay, vectors without), together exactly the
    trainable set."""
    adapter, head = trained(model)
    groups = []
    for parameters, lr in ((adapter, settings.lr), (head, settings.head_lr)):
        for decays in (True, False):
            chosen = [p for p in parameters.values() if (p.ndim >= 2) == decays]
            if chosen:
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": lr, "peak": lr, "weight_decay": decay})
    covered = {id(p) for group in groups for p in group["params"]}
    assert covered == {id(p) for p in model.parameters() if p.requires_grad}, (
        "optimizer groups miss a parameter"
    )
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, betas=betas, eps=settings.eps, fused=True)


def compute_dtype(settings: TrainSettings) -> torch.dtype:
    """In which matrix products are computed."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return dtypes[settings.precision]


def autocast(settings: TrainSettings) -> torch.autocast:
    dtype = compute_dtype(settings)
    enabled = dtype != torch.float32
    return torch.autocast(settings.device, dtype if enabled else None, enabled=enabled)


@contextlib.contextmanager
def frozen_casts(model: nn.Module) -> Iterator[None]:
    """Within it, autocast's casts of the frozen weights of Linears are made once, not at every use;
    the same bits.

    Weights stay as they are for all who read them (DoRA's norms, saving): only a Linear's own
    product takes the cast. What trains is left to autocast, which casts it once a forward, and what
    is compiled to its compiler."""
    casts = Casts()
    compiled = {
        id(part)
        for m in model.modules()
        if m._compiled_call_impl is not None
        for part in m.modules()
    }
    linears = [
        m
        for m in model.modules()
        if type(m) is nn.Linear and "forward" not in vars(m) and id(m) not in compiled
    ]
    for linear in linears:
        linear.forward = functools.partial(_product, linear, casts)
    try:
        yield
    finally:
        for linear in linears:
            del linear.forward


def _product(linear: nn.Linear, casts: Casts, x: Tensor) -> Tensor:
    def cast(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or tensor.requires_grad or tensor.dtype != torch.float32:
            return tensor
        return casts.of(tensor, x.device, torch.get_autocast_dtype(x.device.type))

    # read at each call: BitFit puts another bias in place for one
    weight, bias = linear.weight, linear.bias
    if torch.is_autocast_enabled(x.device.type):
        weight, bias = cast(weight), cast(bias)
    return functional.linear(x, weight, bias)  # type: ignore[arg-type]
