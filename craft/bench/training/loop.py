"""The training loop: `fit` takes a model and tokens and returns what happened.

Resume is exact: a step's random stream is seeded from (seed, step) and an epoch's order from (seed,
epoch), so a checkpoint holds parameters, moments and counters, and no generator state. On a card
the kernel for packed batches may add up the gradients of a sequence of more than 256 tokens in
another order each time, and a resumed run is then exact to rounding alone.

Nothing in a step waits for the device, but for what libraries do: transformers' mask of padded
batches, and the layers of peft's FourierFT and VB-LoRA."""

import hashlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from craft.bench.glue.tokens import Tokens
from craft.bench.model.build import trained
from craft.bench.settings.sections import TrainSettings
from craft.bench.training import memory
from craft.bench.training.batches import Batch, Layout, batches, order
from craft.bench.training.checkpoint import load_checkpoint, save_checkpoint
from craft.bench.training.step import autocast, learning_rate, loss_of, make_optimizer, steps_in
from craft.errors import Interrupted


@dataclass(frozen=True)
class Seeds:
    """Seeds derived from the run's one seed, so that every method sees the same head start and the
    same data order."""

    head: int
    order: int
    step: int
    adapter: int

    @classmethod
    def of(cls, seed: int) -> "Seeds":
        def derive(purpose: str) -> int:
            return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:7])

        return cls(*(derive(purpose) for purpose in ("head", "order", "step", "adapter")))


@dataclass
class Progress:
    """Everything that grows during a run and that a checkpoint keeps."""

    epoch: int = 0  # epochs done
    step: int = 0  # optimizer steps done
    batch: int = 0  # micro-batches done in this epoch
    accumulate: int = 1  # micro-batches a step
    tokens: int = 0  # useful tokens trained on
    loss_sum: float = 0.0  # over this epoch's steps
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    epoch_seconds: list[float] = field(default_factory=list)  # evaluation included
    best_epoch: int = 0
    skipped_steps: int = 0  # by the fp16 scaler
    history: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, Any] | None = None


@dataclass
class Fit:
    """What a run came to: its progress, dev logits of the best and last epoch, and the best epoch's
    parameters."""

    status: str  # ok | diverged
    progress: Progress
    logits: dict[str, Tensor]  # "best.<split>" and "last.<split>", float32 (rows, outputs)
    best: dict[str, Tensor]


@dataclass(frozen=True)
class Loop:
    """What `fit` is given besides the model: tokens, settings, seeds, and where to keep a
    checkpoint."""

    train: Tokens
    dev: dict[str, Tokens]
    score: Callable[[dict[str, np.ndarray]], dict[str, float]]  # dev logits -> metrics
    headline: str
    regression: bool
    settings: TrainSettings
    seeds: Seeds
    layout: Layout
    checkpoint: Path
    identity: str
    observe: Callable[
        [Progress, int, Tensor | None], None
    ]  # progress, total steps, running loss on the device
    stop: Callable[[], bool]


@torch.no_grad()
def predict(
    model: nn.Module, tokens: Tokens, settings: TrainSettings, layout: Layout
) -> np.ndarray:
    """Logits (rows, outputs) in float32, in the order of the rows; batches are formed by length."""
    model.eval()
    rows = np.argsort(tokens.lengths, kind="stable")
    device, found = torch.device(settings.device), []
    with autocast(settings):
        for batch in batches(tokens, rows, settings.eval_batch_size, layout, device):
            found.append((batch.rows, model(**batch.inputs).logits.float()))
    logits = np.empty((len(tokens), found[0][1].shape[1]), np.float32)
    for chunk, values in found:
        logits[chunk] = values.cpu().numpy()
    model.train()
    return logits


def fit(model: nn.Module, loop: Loop) -> Fit:
    """Train for the given epochs, evaluating after each; goes on from `loop.checkpoint` where there
    is one.

    The best epoch is the first with the highest headline. A loss that is not finite ends the run as
    `diverged`. Raises Interrupted after writing a checkpoint when `loop.stop()` says so."""
    settings = loop.settings
    device = torch.device(settings.device)
    model.to(device).train()
    optimizer = make_optimizer(model, settings)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    parameters = {n: p for part in trained(model) for n, p in part.items()}
    each, total = steps_in(len(loop.train), settings)
    warmup = math.ceil(settings.warmup * total)
    progress, logits, best = Progress(), {}, {}

    found = load_checkpoint(loop.checkpoint, loop.identity, parameters, optimizer)
    if found is not None:
        facts, logits, best = found
        progress = Progress(**{"accumulate": settings.accumulate, **facts})
        # counted in micro-batches, which are smaller once a run has found too little memory
        progress.batch = math.ceil(progress.batch * settings.accumulate / progress.accumulate)
        if progress.scaler is not None:
            scaler.load_state_dict(progress.scaler)

    def save() -> None:
        progress.loss_sum = float(running)
        progress.scaler = scaler.state_dict() if scaler.is_enabled() else None
        progress.accumulate = settings.accumulate
        try:
            save_checkpoint(
                loop.checkpoint, loop.identity, parameters, optimizer, progress, logits, best
            )
        except OSError as error:  # a full disk may have room again by the next one
            warnings.warn(
                f"{loop.checkpoint} was not written ({error.strerror}): training goes on, and an "
                "earlier one, if any, stays",
                stacklevel=2,
            )

    running = torch.tensor(progress.loss_sum, device=device)  # sum of this epoch's losses
    saved = time.monotonic()
    while progress.step < total or progress.batch:  # batch: trained to the end, not evaluated yet
        clock = time.perf_counter()
        for batch in _epoch(loop, progress, device) if progress.step < total else ():
            last = _backward(model, batch, loop, progress, scaler, running)
            if not last:
                continue
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(group["peak"], progress.step, warmup, total)
            _update(parameters, optimizer, scaler, settings.clip)
            progress.step += 1
            loop.observe(progress, total, running)
            stop = loop.stop()
            if stop or time.monotonic() - saved > 60 * settings.checkpoint_minutes:
                progress.train_seconds += time.perf_counter() - clock
                if not torch.isfinite(running):
                    return Fit("diverged", progress, logits, best)
                save()
                clock, saved = time.perf_counter(), time.monotonic()
                if stop:
                    raise Interrupted(
                        f"stopped at step {progress.step} of {total}; start again to go on"
                    )
            if progress.step == total:
                break
        # waits for the device
        mean_loss = float(running) / (progress.step - progress.epoch * each)
        progress.train_seconds += time.perf_counter() - clock
        if not math.isfinite(mean_loss):
            return Fit("diverged", progress, logits, best)
        lr = learning_rate(settings.lr, progress.step - 1, warmup, total)
        if not _evaluate(model, loop, progress, logits, best, parameters, mean_loss, lr):
            return Fit("diverged", progress, logits, best)
        progress.skipped_steps = progress.step - _steps_taken(optimizer)
        spent = progress.train_seconds + progress.eval_seconds - sum(progress.epoch_seconds)
        progress.epoch_seconds.append(round(spent, 3))
        running.zero_()
        loop.observe(progress, total, None)
        if progress.step < total:
            save()
            saved = time.monotonic()
    return Fit("ok", progress, logits, best)


def _epoch(loop: Loop, progress: Progress, device: torch.device) -> Any:
    settings = loop.settings
    rows = order(len(loop.train), loop.seeds.order, progress.epoch)
    micro = settings.batch_size // settings.accumulate
    return batches(loop.train, rows, micro, loop.layout, device, skip=progress.batch)


def _backward(
    model: nn.Module,
    batch: Batch,
    loop: Loop,
    progress: Progress,
    scaler: Any,
    running: Tensor,
) -> bool:
    """Forward and backward of one part of a micro-batch; returns whether it is the last of its
    step."""
    settings = loop.settings
    first = progress.batch // settings.accumulate * settings.batch_size
    rows = min(settings.batch_size, len(loop.train) - first)  # of the global batch
    micro = settings.batch_size // settings.accumulate
    count = math.ceil(rows / micro)
    if batch.first:
        torch.manual_seed(hash((loop.seeds.step, progress.epoch, progress.batch)) % 2**63)
    assert batch.labels is not None
    with autocast(settings):
        logits = model(**batch.inputs).logits
    loss = loss_of(logits, batch.labels, loop.regression, rows)
    scaler.scale(loss).backward()
    running += loss.detach()
    progress.tokens += batch.tokens
    if not batch.last:
        return False
    progress.batch += 1
    return (progress.batch - 1) % settings.accumulate == count - 1


def _update(
    parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW, scaler: Any, clip: float
) -> None:
    if clip:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters.values(), clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def _evaluate(
    model: nn.Module,
    loop: Loop,
    progress: Progress,
    logits: dict[str, Tensor],
    best: dict[str, Tensor],
    parameters: dict[str, nn.Parameter],
    loss: float,
    lr: float,
) -> bool:
    """Score the dev splits, append to the history, and keep logits and parameters of the best
    epoch.

    False where the logits are not finite: the epoch's last step has spoilt the model."""
    clock = time.perf_counter()
    try:
        found = {
            split: predict(model, tokens, loop.settings, loop.layout)
            for split, tokens in loop.dev.items()
        }
    except Exception as error:  # smaller micro-batches in training would not help
        if not memory.is_out_of_memory(error):
            raise
        raise memory.OutOfMemory(memory.advice_in_evaluation(loop.settings)) from error
    if not all(np.isfinite(values).all() for values in found.values()):
        return False
    scores = loop.score(found)
    progress.epoch += 1
    progress.batch = 0
    entry = {"epoch": progress.epoch, "step": progress.step, "loss": loss, "lr": lr}
    progress.history.append({**entry, **scores})
    logits |= {f"last.{split}": torch.from_numpy(values) for split, values in found.items()}
    before = [h[loop.headline] for h in progress.history[:-1]]
    if not before or scores[loop.headline] > max(before):
        progress.best_epoch = progress.epoch
        logits |= {
            f"best.{split}": torch.from_numpy(values.copy()) for split, values in found.items()
        }
        best |= {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}
    progress.eval_seconds += time.perf_counter() - clock
    return True


def _steps_taken(optimizer: torch.optim.AdamW) -> int:
    """AdamW's own count, which leaves out the steps that the fp16 scaler has skipped."""
    return int(max(state["step"] for state in optimizer.state.values()))
