"""Dev examples drawn anew: every GLUE metric on bootstrap samples of saved predictions at once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from craft.bench.glue.metrics import unvarying
from craft.bench.report.load import Records
from craft.bench.run.predictions import Dev, read_predictions
from craft.errors import InputError

DRAWS = 4000  # the ends of an interval then differ by some hundredths of its width between seeds
CHUNK = 4_000_000  # numbers of one block of weights


class Resampled:
    """Every run's headline metric on bootstrap samples of its dev examples, by id.

    Runs of a suite's task that have the same dev examples share the samples, so that they are
    paired."""

    def __init__(self, records: Records) -> None:
        self.scores: dict[str, np.ndarray] = {}
        self.example_set: dict[str, tuple[str, int]] = {}
        self.problems: list[str] = []
        for _, group in records.runs.groupby(["suite", "task"], sort=False):
            self._add(records, group)

    def _add(self, records: Records, group: pd.DataFrame) -> None:
        sets: list[tuple[Dev, list[str], list[np.ndarray]]] = []
        for run, path in group["path"].items():
            try:
                found = read_predictions(Path(path), records.raw[str(run)])
            except InputError as error:
                self.problems.append(str(error))
                continue
            if found is None:
                continue
            dev, predicted = found
            known = next((s for s in sets if s[0] == dev), None)
            if known is None:
                known = (dev, [], [])
                sets.append(known)
            known[1].append(str(run))
            known[2].append(predicted)
        for number, (dev, ids, predictions) in enumerate(sets):
            metric = group["headline"].iloc[0]
            columns = bootstrap_scores(metric, dev.labels, np.stack(predictions, axis=1))
            for column, run in enumerate(ids):
                self.scores[run] = columns[:, column]
                self.example_set[run] = (group["task"].iloc[0], number)


def example_weights(n: int, draws: int = DRAWS, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each of n examples is drawn in each bootstrap sample: blocks of (b, n)."""
    generator = np.random.default_rng(seed)
    block = max(1, CHUNK // n)
    for start in range(0, draws, block):
        drawn = generator.integers(n, size=(min(block, draws - start), n))
        yield np.stack([np.bincount(row, minlength=n) for row in drawn])


def bootstrap_scores(
    metric: str, labels: np.ndarray, predicted: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """The metric on bootstrap samples of the examples: labels (n,), predicted (n, R) -> (draws, R).

    All columns see the same samples, so that differences between them are paired."""
    blocks = example_weights(len(labels), draws, seed)
    return np.concatenate([score(metric, labels, predicted, weights) for weights in blocks])


def score(
    metric: str, labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """A metric where example i counts weights[b, i] times: labels (n,), predicted (n, R), weights
    (B, n) -> (B, R).

    As in `craft.bench.glue.metrics`, a correlation with a constant is 0."""
    return METRICS[metric](labels, predicted, weights.astype(np.float64))


def _accuracy(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    right = (predicted == labels[:, None]).astype(np.float64)
    return weights @ right / weights.sum(1, keepdims=True)


def _confusion(
    labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, ...]:
    """True positives, predicted positives (B, R), actual positives and examples (B, 1)."""
    if not np.isin(labels, (0, 1)).all():
        raise InputError("F1 and Matthews are for two classes, 0 and 1")
    positive, actual = (predicted == 1).astype(np.float64), (labels == 1).astype(np.float64)
    both = weights @ (positive * actual[:, None])
    return both, weights @ positive, (weights @ actual)[:, None], weights.sum(1, keepdims=True)


def _f1(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    both, positive, actual, _ = _confusion(labels, predicted, weights)
    return _ratio(2 * both, positive + actual)


def _matthews(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    both, positive, actual, n = _confusion(labels, predicted, weights)
    spread = positive * (n - positive) * actual * (n - actual)
    return _ratio(both * n - positive * actual, np.sqrt(spread))


def _pearson(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    y = labels.astype(np.float64) - labels.mean()
    x = predicted - predicted.mean(0)  # centred first, so that the sums below lose no digits
    n = weights.sum(1, keepdims=True)
    sum_x, sum_y = weights @ x, (weights @ y)[:, None]
    xx = weights @ x**2 - sum_x**2 / n
    yy = (weights @ y**2)[:, None] - sum_y**2 / n
    xy = weights @ (x * y[:, None]) - sum_x * sum_y / n
    return np.where(unvarying(predicted), 0.0, _ratio(xy, np.sqrt(np.maximum(xx * yy, 0.0))))


def _spearman(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson of the ranks that the resampled examples have among themselves."""
    n = weights.sum(1)
    y = _ranks(labels, weights) - (n[:, None] + 1) / 2
    yy = np.einsum("bn,bn,bn->b", weights, y, y)
    columns = []
    for r in range(predicted.shape[1]):
        x = _ranks(predicted[:, r], weights) - (n[:, None] + 1) / 2
        xy = np.einsum("bn,bn,bn->b", weights, x, y)
        xx = np.einsum("bn,bn,bn->b", weights, x, x)
        columns.append(_ratio(xy, np.sqrt(xx * yy)))
    return np.where(unvarying(predicted), 0.0, np.stack(columns, axis=1))


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mid-ranks (B, n) of values (n,), value i occurring weights[b, i] times."""
    distinct, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(distinct)))
    counts = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(counts, axis=1) - counts + (counts + 1) / 2)[:, group]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, 0 where below is 0."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)


METRICS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
