"""What a run leaves besides its record: counts, scores, predictions and adapters."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from craft import models
from craft.config import RunConfig
from craft.glue import sources
from craft.glue.tasks import Task
from craft.storage import folder_atomically, write_json, write_tensors
from craft.train import Fit

ORIGIN = "made_on.json"  # beside an adapter: the run, the task and the backbone that it was made on


def count_parameters(config: RunConfig, model: PeftModel) -> dict[str, Any]:
    """Trainable parameters of adapter and head, all parameters of the backbone, and CRAFT's
    effective ranks."""
    adapter, head = models.trained(model)
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
    from craft.glue.metrics import collapsed, predictions_of

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


def write_predictions(path: Path, task: Task, fitted: Fit, data: sources.GlueData) -> str:
    """Dev logits of the best and last epoch, with labels and row indices; returns the tensors'
    digest."""
    tensors = dict(fitted.logits)
    for name in task.dev:
        split = data.splits[name]
        dtype = torch.float32 if task.regression else torch.int64
        tensors[f"labels.{name}"] = torch.tensor(split.labels, dtype=dtype)
        tensors[f"idx.{name}"] = torch.tensor(split.idx, dtype=torch.int64)
    return write_tensors(path, tensors, {"task": task.name})


def origin_of(config: RunConfig, backbone: models.Backbone, drawn: bool) -> dict[str, Any]:
    """What an adapter belongs to: its task, and the backbone that it was made on.

    `drawn` says whether some of the backbone's weights come from the run's seed, which then counts
    unless the adapter holds them all."""
    seeded = drawn and not config.method.get("train_backbone")
    return {
        "task": config.task.name,
        "model": {
            "name": backbone.name,
            "digest": backbone.digest,
            "tokenizer": backbone.tokenizer,
            "random": backbone.random,
            "vertical": None if backbone.vertical is None else dict(backbone.vertical),
            "seed": config.seed if seeded else None,
        },
    }


def save_adapters(model: PeftModel, fitted: Fit, folder: Path, origin: dict[str, Any]) -> int:
    """Save adapter and head of the last and of the best epoch as peft folders, and what they were
    made on; returns the bytes of one."""
    _save_adapter(model, folder / "last", origin)
    adapter, head = models.trained(model)
    with torch.no_grad():
        for name, parameter in {**adapter, **head}.items():
            if name in fitted.best:
                parameter.copy_(fitted.best[name])
    _save_adapter(model, folder / "best", origin)
    return (folder / "best" / "adapter_model.safetensors").stat().st_size


def _save_adapter(model: PeftModel, path: Path, origin: dict[str, Any]) -> None:
    with folder_atomically(path) as aside:
        model.save_pretrained(aside)
        write_json(aside / ORIGIN, origin)
