"""Saved dev predictions of runs, and every GLUE metric on resampled examples at once."""

import numpy as np

from craft.errors import InputError


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
    constant = np.ptp(predicted, axis=0) < 1e-6  # the bound of craft.bench.glue.metrics.collapsed
    return np.where(constant, 0.0, _ratio(xy, np.sqrt(np.maximum(xx * yy, 0.0))))


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
    constant = np.ptp(predicted, axis=0) < 1e-6
    return np.where(constant, 0.0, np.stack(columns, axis=1))


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
