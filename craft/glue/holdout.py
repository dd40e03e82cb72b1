"""What a run is scored on: the dev splits, or a part of train that is held out for a search."""

import numpy as np

from craft.config import RunConfig
from craft.glue import sources
from craft.glue.sources import GlueData
from craft.glue.tasks import Split, Task
from craft.storage import sha256

SHARE = 10  # one row of so many is held out


def data_of(config: RunConfig) -> GlueData:
    """The splits that a run trains and is scored on.

    With selection=train_holdout these are nine tenths of train, and the tenth in the place of the
    dev splits, which are then not looked at."""
    task = config.task
    data = sources.load(task, config.data, ("train", *task.dev))
    return data if config.selection == "dev" else held_out(task, data)


def held_out(task: Task, data: GlueData) -> GlueData:
    """The same rows for every seed, method and setting, so that all are compared on the same."""
    train = data.splits["train"]
    rows = np.random.default_rng(0).permutation(len(train))
    count = max(len(task.dev), len(train) // SHARE)
    held, kept = np.sort(rows[:count]), np.sort(rows[count:])
    parts = np.array_split(held, len(task.dev))
    splits = {"train": _part(train, "train", kept)}
    splits |= {name: _part(train, name, part) for name, part in zip(task.dev, parts, strict=True)}
    digest = sha256(f"{data.digest} train_holdout {SHARE}".encode())
    return GlueData(splits, digest, data.skipped)


def _part(split: Split, name: str, rows: np.ndarray) -> Split:
    labels = split.labels
    return Split(
        name,
        tuple([column[row] for row in rows] for column in split.texts),
        None if labels is None else [labels[row] for row in rows],  # type: ignore[arg-type]
        [split.idx[row] for row in rows],
    )
