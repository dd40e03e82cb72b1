"""GLUE's metrics as `evaluate.Metric`s that need no network: evaluate's own are scripts on the
hub."""

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from craft.bench.settings.sections import Task


def collapsed(predictions: np.ndarray, regression: bool) -> bool:
    """Whether all predictions are the same: one class, or a score that does not vary."""
    predictions = np.asarray(predictions)
    return bool(np.ptp(predictions) < 1e-6) if regression else len(np.unique(predictions)) == 1


class GlueMetrics(evaluate.Metric):
    """Every metric that GLUE reports for one task, as fractions.

    A correlation with a constant is not defined; it counts as 0 here, as Matthews' does by
    convention, and the run is marked as collapsed (`collapsed`)."""

    def __init__(self, task: Task) -> None:
        self.task = task
        super().__init__(config_name=task.name, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        kind = datasets.Value("float64" if self.task.regression else "int64")
        return evaluate.MetricInfo(
            description="GLUE metrics of one task",
            citation="",
            features=datasets.Features({"predictions": kind, "references": kind}),
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        # scores that do not vary have no correlation with anything
        constant = collapsed(predictions, self.task.regression) or (
            self.task.regression and collapsed(references, regression=True)
        )
        compute = {
            "accuracy": lambda: accuracy_score(references, predictions),
            "f1": lambda: f1_score(references, predictions, zero_division=0.0),
            "matthews": lambda: 0.0 if constant else matthews_corrcoef(references, predictions),
            "pearson": lambda: 0.0 if constant else pearsonr(predictions, references).statistic,
            "spearman": lambda: 0.0 if constant else spearmanr(predictions, references).statistic,
        }
        return {name: float(compute[name]()) for name in self.task.metrics}


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
