"""A run's predictions of its dev examples, beside its record."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from craft.bench.glue import sources
from craft.bench.run.record import Record
from craft.bench.settings.sections import Task
from craft.bench.training.loop import Fit
from craft.errors import InputError
from craft.files import (
    DamagedFile,
    digest_of_tensors,
    read_tensors,
    write_tensors,
)


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


@dataclass(frozen=True)
class Dev:
    """The dev examples of a task: indices and labels (n,), all its dev splits one after the
    other."""

    idx: np.ndarray
    labels: np.ndarray

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Dev)
            and np.array_equal(self.idx, other.idx)
            and np.array_equal(self.labels, other.labels)
        )


def predictions_path(record: Path) -> Path:
    """Beside the record of a run; in results/ under predictions/ by the record's name."""
    if record.name == "record.json":
        return record.with_name("predictions.safetensors")
    return record.parent.parent / "predictions" / f"{record.stem}.safetensors"


def read_predictions(
    record: Path, made: Record, epoch: str = "best"
) -> tuple[Dev, np.ndarray] | None:
    """Dev examples and predictions (n,) of a run: class ids, or scores; None where no file is
    there.

    InputError where the file is damaged or not the one that the record names."""
    path = predictions_path(record)
    try:
        tensors, _ = read_tensors(path)
    except FileNotFoundError:
        return None
    except DamagedFile as damage:
        raise InputError(str(damage)) from damage
    if digest_of_tensors(tensors) != made.result["predictions_sha256"]:
        raise InputError(f"{path}: not the predictions that {record} names")
    task = made.provenance["config"]["task"]

    def pooled(kind: str) -> np.ndarray:
        return np.concatenate([tensors[f"{kind}.{split}"].numpy() for split in task["dev"]])

    logits = pooled(epoch)
    predicted = logits.argmax(-1) if task["labels"] else logits[:, 0].astype(np.float64)
    return Dev(pooled("idx"), pooled("labels")), predicted
