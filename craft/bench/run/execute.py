"""What a run computes, from its backbone and its data to its result: tokenise, build, attach, fit,
score."""

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from craft import tucker
from craft.bench.glue.tokens import TokenCache
from craft.bench.model import packing
from craft.bench.model.build import (
    adapted,
    attach,
    attention_dropout,
    build,
    first_position,
    trained,
)
from craft.bench.model.compilation import compile_blocks
from craft.bench.model.intruders import Intruders, intruders
from craft.bench.model.locate import Backbone, check_vocabulary, tokenizer_of
from craft.bench.run.adapter import origin_of, save_adapters, start_from
from craft.bench.run.inputs import Inputs
from craft.bench.run.predictions import write_predictions
from craft.bench.run.provenance import anonymous
from craft.bench.run.record import Record
from craft.bench.run.tracking import tracker
from craft.bench.settings.declared import plain
from craft.bench.settings.sections import RunConfig, Task
from craft.bench.training import memory
from craft.bench.training.batches import layout_of
from craft.bench.training.loop import Fit, Loop, Seeds, fit
from craft.bench.training.progress import ProgressLine
from craft.bench.training.step import compute_dtype, frozen_casts
from craft.errors import InputError

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run came to (status ok or diverged, result) and what is known of how it came about."""

    status: str
    result: dict[str, Any]
    provenance: dict[str, Any]


def execute(
    inputs: Inputs, stop: Callable[[], bool], say: Say, begin: Callable[[], None]
) -> Outcome:
    """Train and score a run, and leave its predictions and adapters in its folder.

    `begin` is called before training, when nothing is left that could refuse the run's input."""
    memory.release()  # what earlier runs of this process hold, and their peaks
    config, backbone, data = inputs.config, inputs.backbone, inputs.data
    run_id, folder, start = inputs.id, inputs.folder, inputs.start
    seeds = Seeds.of(config.seed)
    tokenizer = tokenizer_of(backbone)
    cache = caches(config, data.digest, backbone.tokenizer)
    tokens = {
        n: cache.encode(s, config.task, tokenizer, config.train.max_length)
        for n, s in data.splits.items()
    }
    labels = {name: data.splits[name].labels for name in config.task.dev}
    line = ProgressLine(folder.path.name, config.task.headline)
    log = tracker(config.logger, run_id, folder.path.name, plain(config), str(folder.path))

    def observe(progress: Any, total: int, running: torch.Tensor | None) -> None:
        line.observe(progress, total, running)
        if running is None:
            log.log(progress.history[-1], progress.step)

    def score(logits: dict[str, np.ndarray]) -> dict[str, float]:
        from craft.bench.glue.metrics import score  # evaluate and datasets take a second to import

        return score(config.task, logits, labels)  # type: ignore[arg-type]

    settings = config.train
    with line, log:
        while True:
            clock = time.perf_counter()
            model = prepare(config, backbone, seeds)
            attach_seconds = time.perf_counter() - clock
            check_vocabulary(model, tokens.values())
            started_from = None if start is None else start_from(model, start)
            parameters = count_parameters(config, model)
            loop = Loop(
                train=tokens["train"],
                dev={name: tokens[name] for name in config.task.dev},
                score=score,
                headline=config.task.headline,
                regression=config.task.regression,
                settings=settings,
                seeds=seeds,
                layout=layout_of(model, tokenizer.pad_token_id, settings.batching, settings.device),
                checkpoint=folder.checkpoint,
                identity=run_id,
                observe=observe,
                stop=stop,
            )
            begin()
            try:
                with frozen_casts(model):
                    fitted = fit(model, loop)
                break
            except Exception as error:
                if isinstance(error, memory.OutOfMemory) or not memory.is_out_of_memory(error):
                    raise
                accumulate = memory.smaller(settings)
                if accumulate is None or not settings.auto_accumulate:
                    raise memory.OutOfMemory(memory.advice(settings)) from error
            # out here the exception is gone, and with it the frames that held the step's tensors
            del model, loop
            memory.release()
            say(f"{folder.path.name}: too little memory, on with train.accumulate={accumulate}")
            settings = dataclasses.replace(settings, accumulate=accumulate)
    predictions = (
        write_predictions(folder.predictions, config.task, fitted, data) if fitted.logits else None
    )
    result = {
        "config": inputs.kept,
        "score": summarise(config.task, fitted),
        "history": fitted.progress.history,
        "parameters": parameters,
        "steps": fitted.progress.step,
        "tokens": fitted.progress.tokens,
        "skipped_steps": fitted.progress.skipped_steps,
        "predictions_sha256": predictions,
    }
    run = {"run": folder.path.name, "id": run_id}
    origin = run | origin_of(config, backbone, model.get_base_model().config.drawn)
    peaks = memory.peaks(torch.device(config.train.device))
    found = Intruders(None, None, None, f"the run {fitted.status}")
    if fitted.status == "ok":  # of the last epoch, whose parameters the model has until it is saved
        found = intruders(model, lambda: build(backbone, config.task, seeds.head))
    adapter_bytes = save_adapters(model, fitted, folder.path, origin)
    progress = fitted.progress
    more = {
        "accumulate": settings.accumulate,
        "start_from": started_from,
        "adapted": adapted(model),
        "intruders": dataclasses.asdict(found),
        "vertical": getattr(model.get_base_model().config, "vertical", None),
        "tokens": {
            "max_length": config.train.max_length,
            "cut": {n: t.cut / len(t) for n, t in tokens.items()},
            "mean_length": {n: float(t.lengths.mean()) for n, t in tokens.items()},
        },
        "cost": {
            "attach_seconds": round(attach_seconds, 3),  # the decomposition included
            "train_seconds": round(progress.train_seconds, 3),
            "eval_seconds": round(progress.eval_seconds, 3),
            "epoch_seconds": progress.epoch_seconds,
            "steps_per_second": round(progress.step / max(progress.train_seconds, 1e-9), 3),
            "tokens_per_second": round(progress.tokens / max(progress.train_seconds, 1e-9), 1),
            "peak_megabytes": peaks,
            "adapter_bytes": adapter_bytes,
        },
    }
    log.finish(Record(run_id, fitted.status, result, anonymous(more)))
    return Outcome(fitted.status, result, more)


def caches(config: RunConfig, data: str, tokenizer: str) -> TokenCache:
    """Let this process's tuners use the caches of a run's decompositions, and return that of its
    tokens: in `outputs`, and read in `store`, too."""
    shared = () if config.store is None else (config.store / "cache",)
    own = config.outputs / "cache"
    tucker.use_cache(own / "tucker", [place / "tucker" for place in shared])
    return TokenCache(own / "tokens", data, tokenizer, tuple(p / "tokens" for p in shared))


def prepare(config: RunConfig, backbone: Backbone, seeds: Seeds) -> PeftModel:
    """The model ready to train: backbone, head, method, and packed attention where batches are
    packed."""
    settings = config.train
    model = build(backbone, config.task, seeds.head, settings.attention_dropout)
    available = getattr(model.config, "max_position_embeddings", None)
    usable = None if available is None else available - first_position(model)
    if usable is not None and config.train.max_length > usable:
        raise InputError(
            f"train.max_length {config.train.max_length} exceeds the {usable} positions of "
            f"{backbone.name}"
        )
    if settings.batching == "packed":
        packing.enable(model)
        _tell_of_the_kernel(config, model)
    attached = attach(model, config.method, seeds.adapter)
    if settings.compile:
        compile_blocks(attached)
    return attached


def _tell_of_the_kernel(config: RunConfig, model: PreTrainedModel) -> None:
    """Say so where a card trains without the kernel for packed batches."""
    device, dtype = torch.device(config.train.device), compute_dtype(config.train)
    if device.type != "cuda" or not torch.cuda.is_available():  # prepared for another machine
        return
    reason = packing.without_kernel(device, dtype, attention_dropout(model.config))
    if reason is not None:
        warnings.warn(
            f"packed attention trains by plain products, not by torch's kernel: {reason}",
            stacklevel=2,
        )


def count_parameters(config: RunConfig, model: PeftModel) -> dict[str, Any]:
    """Trainable parameters of adapter and head, all parameters of the backbone, and CRAFT's
    effective ranks."""
    adapter, head = trained(model)
    tuner: Any = model.base_model
    ranks = tuner.ranks() if hasattr(tuner, "ranks") else None
    return {
        "adapter": sum(p.numel() for p in adapter.values()),
        "head": sum(p.numel() for p in head.values()),
        "total": sum(p.numel() for p in model.parameters()),
        "effective_ranks": None if ranks is None else {n: list(r) for n, r in ranks.items()},
    }


def summarise(task: Task, fitted: Fit) -> dict[str, Any]:
    """Best and last scores, and whether all predictions of either epoch are the same; null where no
    epoch was finished."""
    from craft.bench.glue.metrics import collapsed, predictions_of

    history = fitted.progress.history
    if not history:
        return {
            "headline": task.headline,
            "best": None,
            "last": None,
            "best_epoch": None,
            "collapsed": None,
            "collapsed_last": None,
        }

    def metrics(entry: dict[str, Any]) -> dict[str, float]:
        return {k: v for k, v in entry.items() if k not in ("epoch", "step", "loss", "lr")}

    def constant(epoch: str) -> bool:
        logits = [fitted.logits[f"{epoch}.{split}"].numpy() for split in task.dev]
        predicted = np.concatenate([predictions_of(task, each) for each in logits])
        return collapsed(predicted, task.regression)

    return {
        "headline": task.headline,
        "best": metrics(history[fitted.progress.best_epoch - 1]),
        "last": metrics(history[-1]),
        "best_epoch": fitted.progress.best_epoch,
        "collapsed": constant("best"),
        "collapsed_last": constant("last"),
    }
