"""What a run leaves besides its record: counts, scores, predictions and adapters."""

from typing import Any

import numpy as np
from peft import PeftModel

from craft.bench.model.build import trained
from craft.bench.settings.sections import RunConfig, Task
from craft.bench.training.loop import Fit


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
