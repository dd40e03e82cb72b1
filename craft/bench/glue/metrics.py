"""GLUE's metrics as `evaluate.Metric`s that need no network: evaluate's own are scripts on the
hub."""

from collections.abc import Callable
from functools import partial

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from craft.bench.settings.sections import Task


def unvarying(scores: np.ndarray) -> np.ndarray:
    """Which columns of scores (n, ...) do not vary: (...)."""
    return np.ptp(scores, axis=0) < 1e-6


def collapsed(predictions: np.ndarray, regression: bool) -> bool:
    """Whether all predictions are the same: one class, or a score that does not vary."""
    return bool(unvarying(predictions)) if regression else len(np.unique(predictions)) == 1


def _matthews(references: np.ndarray, predictions: np.ndarray) -> float:
    # scikit-learn warns where the references are of the one class, too
    constant = collapsed(predictions, regression=False)
    return 0.0 if constant else matthews_corrcoef(references, predictions)


def _correlation(of: Callable, references: np.ndarray, predictions: np.ndarray) -> float:
    constant = unvarying(references) or unvarying(predictions)
    return 0.0 if constant else of(predictions, references).statistic


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {  # of references and predictions
    "accuracy": accuracy_score,
    "f1": partial(f1_score, zero_division=0.0),
    "matthews": _matthews,
    "pearson": partial(_correlation, pearsonr),
    "spearman": partial(_correlation, spearmanr),
}


class GlueMetrics(evaluate.Metric):
    """Every metric that GLUE reports for one task, as fractions.

    A correlation with a constant is not defined; it counts as 0 here, as Matthews' does by
    convention, and the run is marked as collapsed (`collapsed`)."""

    def __init__(self, task: Task) -> None:
        self.task = task
        super().__init__(config_name=task.name, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        kind = datasets.Value("float64" if self.task.regression else "int64")
        features = datasets.Features({"predictions": kind, "references": kind})
        return evaluate.MetricInfo("GLUE metrics of one task", citation="", features=features)

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        arrays = np.asarray(references), np.asarray(predictions)
        return {name: float(METRICS[name](*arrays)) for name in self.task.metrics}


def predictions_of(task: Task, logits: np.ndarray) -> np.ndarray:
    """Class ids, or scores, from logits (n, outputs)."""
    return logits[:, 0].astype(np.float64) if task.regression else logits.argmax(-1)


def score(task: Task, logits: dict[str, np.ndarray], labels: dict[str, list]) -> dict[str, float]:
    """All metrics of a task from the logits of its dev splits.

    With several splits (MNLI) each metric stands once pooled over all rows, under its own name, and
    once per split, under `<metric>_<split>`."""
    metrics = GlueMetrics(task)
    predicted = {split: predictions_of(task, logits[split]) for split in task.dev}
    pooled = np.concatenate([predicted[s] for s in task.dev])
    truth = [label for split in task.dev for label in labels[split]]
    scores = dict(metrics.compute(predictions=pooled, references=truth) or {})
    if len(task.dev) > 1:
        for split in task.dev:
            own = metrics.compute(predictions=predicted[split], references=labels[split]) or {}
            scores |= {f"{name}_{split.removeprefix('validation_')}": v for name, v in own.items()}
    return scores
