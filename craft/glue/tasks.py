"""A GLUE task is a frozen record of facts, read from configs/task/<name>.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from craft.declared import Effect, setting
from craft.errors import InputError

METRICS = ("accuracy", "f1", "matthews", "pearson", "spearman")


@dataclass(frozen=True)
class Tsv:
    """How a task's original TSV files are laid out."""

    files: Mapping[str, str]  # split -> file name without .tsv
    columns: Mapping[
        str, str | int
    ]  # our name -> the header's name, or the position without a header
    width: int | None  # number of columns of a file without a header
    test_columns: Mapping[str, str | int]
    skip_broken_rows: (
        bool  # the official files hold rows of another width; they are left out and counted
    )


@dataclass(frozen=True)
class Task:
    """Columns, labels, splits and metrics of one task.

    `labels` are the class names in the order of their ids, and empty for regression. `headline` is
    the metric of the published tables; where there are several dev splits it is pooled over
    them."""

    name: Annotated[str, setting(effect=Effect.PLACE)]
    hub: str
    folder: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]
    metrics: tuple[str, ...]
    headline: Annotated[
        str, setting(effect=Effect.PLACE)
    ]  # its other facts show in the data's digest
    tsv: Tsv

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Task":
        """Build from the resolved `task` section; InputError on unknown or missing keys and on
        unknown metrics."""
        known = {f.name for f in fields(cls)}
        if odd := set(config) ^ known:
            raise InputError(
                f"task {config.get('name')}: keys {sorted(odd)} are unknown or missing"
            )
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k != "tsv"}
        task = cls(**plain, tsv=Tsv(**config["tsv"]))
        for metric in {*task.metrics, task.headline} - set(METRICS):
            raise InputError(
                f"task {task.name}: metric {metric!r} is not one of {', '.join(METRICS)}"
            )
        return task

    @property
    def regression(self) -> bool:
        return not self.labels

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return len(self.labels) or 1


@dataclass(frozen=True)
class Split:
    """Texts (one list per column) and labels of one split; labels are None where they are
    hidden."""

    name: str
    texts: tuple[list[str], ...]
    labels: list[int] | list[float] | None
    idx: list[int]

    def __len__(self) -> int:
        return len(self.idx)
