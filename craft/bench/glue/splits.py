"""What a run is scored on: the dev splits, a part of train that is held out for a search, or a fold
of train and dev together."""

import numpy as np

from craft.bench.glue import sources
from craft.bench.glue.sources import GlueData, Split
from craft.bench.settings.sections import Fold, RunConfig, Task
from craft.errors import InputError
from craft.files import sha256

SHARE = 10  # one row of so many is held out
BINS = 10  # strata of a score, as far as each has a row for every fold


def data_of(config: RunConfig) -> GlueData:
    """The splits that a run trains and is scored on.

    With selection=train_holdout these are nine tenths of train, and the tenth in the place of the
    dev splits, which are then not looked at; with selection=fold a fold of both in their place, and
    the other folds as train."""
    task = config.task
    data = sources.load(task, config.data, ("train", *task.dev))
    if config.selection == "fold":
        return fold_of(task, data, config.fold)
    return data if config.selection == "dev" else held_out(task, data)


def reserve(task: Task, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in train that are held out for searches, and all others: the same for every seed,
    method and setting, so that all are compared on the same."""
    drawn = np.random.default_rng(0).permutation(rows)
    count = max(len(task.dev), rows // SHARE)
    return np.sort(drawn[:count]), np.sort(drawn[count:])


def held_out(task: Task, data: GlueData) -> GlueData:
    """Train without the reserve, and the reserve in the place of the dev splits."""
    train = data.splits["train"]
    held, kept = reserve(task, len(train))
    digest = sha256(f"{data.digest} train_holdout {SHARE}".encode())
    return GlueData(_cut(task, train, kept, held), digest, data.skipped)


def fold_of(task: Task, data: GlueData, fold: Fold) -> GlueData:
    """A fold of the pool in the place of the dev splits, and the other folds as train.

    The pool is train without the reserve, which is in no fold, and all dev rows. Its rows have an
    `idx` of their own, the same in every fold: a row's position in train, and the length of train
    and more for the dev splits, one after the other. The digest is of the pool, whichever of its
    folds this is and however they are cut. InputError where a stratum has fewer rows than there are
    folds."""
    whole = _joined([data.splits[name] for name in ("train", *task.dev)])
    train = len(data.splits["train"])
    pool = np.concatenate([reserve(task, train)[1], np.arange(train, len(whole))])
    assert whole.labels is not None
    labels = np.asarray(whole.labels)[pool]
    numbers = folds(strata(task, labels, fold.count), fold.count, fold.permutation)
    chosen = numbers == fold.number
    digest = sha256(f"{data.digest} fold {SHARE} {BINS}".encode())
    return GlueData(_cut(task, whole, pool[~chosen], pool[chosen]), digest, data.skipped)


def strata(task: Task, labels: np.ndarray, count: int) -> np.ndarray:
    """The stratum of each row: its label, or for a score the quantile that its rank falls into.

    InputError where a label has fewer rows than `count` folds."""
    if task.regression:
        bins = max(1, min(BINS, len(labels) // count))
        ranks = np.argsort(np.argsort(labels, kind="stable"))
        found = ranks * bins // len(labels)
    else:
        found = labels
    values, sizes = np.unique(found, return_counts=True)
    if sizes.min() < count:
        stratum = "score" if task.regression else f"label {task.labels[values[sizes.argmin()]]}"
        raise InputError(
            f"fold.count {count}: {task.name} has {sizes.min()} rows of {stratum} in train and dev "
            "without the reserve; take as many folds at most"
        )
    return found


def folds(stratum: np.ndarray, count: int, permutation: int) -> np.ndarray:
    """The fold of each row: rows of a stratum are dealt out in an order drawn from `permutation`,
    one stratum after the other, so that the folds' shares of each, and of all, differ by at most
    one."""
    drawn = np.random.default_rng(permutation).permutation(len(stratum))
    order = drawn[np.argsort(stratum[drawn], kind="stable")]
    numbers = np.empty(len(stratum), dtype=np.int64)
    numbers[order] = np.arange(len(stratum)) % count
    return numbers


def _joined(splits: list[Split]) -> Split:
    """All rows of labelled splits, numbered from 0."""
    columns = zip(*(split.texts for split in splits), strict=True)
    return Split(
        "pool",
        tuple([text for column in parts for text in column] for parts in columns),
        [label for split in splits for label in split.labels or ()],  # type: ignore[arg-type]
        list(range(sum(map(len, splits)))),
    )


def _cut(task: Task, split: Split, trained: np.ndarray, scored: np.ndarray) -> dict[str, Split]:
    """Rows of a split as train, and others in the place of the dev splits, in equal parts."""
    parts = np.array_split(scored, len(task.dev))
    splits = {"train": _part(split, "train", trained)}
    return splits | {n: _part(split, n, part) for n, part in zip(task.dev, parts, strict=True)}


def _part(split: Split, name: str, rows: np.ndarray) -> Split:
    labels = split.labels
    return Split(
        name,
        tuple([column[row] for row in rows] for column in split.texts),
        None if labels is None else [labels[row] for row in rows],  # type: ignore[arg-type]
        [split.idx[row] for row in rows],
    )
