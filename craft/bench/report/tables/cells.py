"""Scores over seeds: the cells of method x task, and the tables that show them."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportCallIssue=false
# pandas is typed as if every row, column or cell might be any of the three.

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from craft.bench.report.load import TASKS, TITLES, Records
from craft.bench.report.resampling import Resampled
from craft.bench.report.statistics import FEWEST, interval
from craft.bench.report.tables.render import MISSING, NO_RECORD, Table, between, percent, span


class Names(dict[str, str]):
    """Names as they are printed; a task that is added has its own."""

    def __missing__(self, key: str) -> str:
        return key


NAMES = Names(mnli="MNLI", sst2="SST-2", mrpc="MRPC", cola="CoLA", qnli="QNLI", qqp="QQP")
NAMES |= {"rte": "RTE", "stsb": "STS-B", "wnli": "WNLI"}
METRIC_NAMES = {"accuracy": "accuracy", "f1": "F1", "matthews": "Matthews correlation"}
METRIC_NAMES |= {"pearson": "Pearson correlation", "spearman": "Spearman correlation"}
CELL = ["suite", "model", "method", "settings", "start_from", "task"]


def cells(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per cell: n, and over seeds the mean and deviation at best and last epoch."""
    numbers = runs.astype(dict.fromkeys(("best", "last", "best_epoch"), "float64"))
    return (
        numbers.groupby(CELL, sort=False)
        .agg(
            metric=("headline", "first"),
            n=("id", "size"),
            mean=("best", "mean"),
            sd=("best", "std"),
            last_mean=("last", "mean"),
            last_sd=("last", "std"),
            best_epoch=("best_epoch", "median"),
            epochs=("epochs", "max"),
            collapsed=("collapsed", "sum"),
            collapsed_last=("collapsed_last", lambda known: int(known.eq(True).sum())),
            known_last=("collapsed_last", "count"),
            dirty=("dirty", "sum"),
            searched=("searched", "first"),
            n_dev=("n_dev", "first"),
            parameters_adapter=("parameters_adapter", "first"),
            parameters_head=("parameters_head", "first"),
            seeds=("seed", lambda seeds: " ".join(map(str, seeds))),
        )
        .reset_index()
    )


def intervals(runs: pd.DataFrame, resampled: Resampled) -> pd.DataFrame:
    """`low` and `high` of every cell's mean; NaN of fewer than FEWEST runs, and where one of them
    has no predictions."""
    found = []
    for key, group in runs.groupby(CELL, sort=False):
        low = high = float("nan")
        if len(group) >= FEWEST and all(run in resampled.scores for run in group.index):
            low, high = interval(np.stack([resampled.scores[run] for run in group.index], axis=1))
        found.append(dict(zip(CELL, key, strict=True)) | {"low": low, "high": high})
    return pd.DataFrame(found, columns=[*CELL, "low", "high"])


def by_metric(records: Records, task: str, metric: str) -> pd.DataFrame:
    """The finished runs, those of a task scored by this metric of their best and last epoch; a run
    that has no such metric keeps its headline."""
    scores = records.scores
    own = scores[(scores["task"] == task) & (scores["metric"] == metric)].set_index("id")
    runs = records.runs.copy()
    runs.loc[own.index, ["best", "last"]] = own[["best", "last"]]
    runs.loc[own.index, "headline"] = metric
    return runs


@dataclass(frozen=True)
class Row:
    """One method with one set of settings: its cells by task.

    `start` is `mnli` where runs that start from MNLI are there: MRPC, RTE and STS-B are then
    theirs, the others the same runs as in the row without."""

    method: str
    settings: str
    start: str
    cells: dict[str, pd.Series]

    @property
    def name(self) -> str:
        extra = [self.settings] if self.settings else []
        extra += ["MNLI start"] if self.start else []
        return f"{self.method} ({'; '.join(extra)})" if extra else self.method

    def parameters(self, kind: str) -> pd.Series:
        return pd.Series([c[f"parameters_{kind}"] for c in self.cells.values()], dtype="float64")

    def average(self, tasks: tuple[str, ...]) -> float | None:
        """The mean over exactly these tasks, None where one is missing."""
        if not tasks or not set(tasks) <= set(self.cells):
            return None
        return float(sum(self.cells[task]["mean"] for task in tasks) / len(tasks))


def rows(found: pd.DataFrame) -> Iterator[Row]:
    """The rows of one suite and model, from its cells."""
    for (method, settings), group in found.groupby(["method", "settings"], sort=False):
        plain = {c["task"]: c for _, c in group[group["start_from"] == ""].iterrows()}
        started = {c["task"]: c for _, c in group[group["start_from"] != ""].iterrows()}
        if plain:
            yield Row(method, settings, "", plain)
        if started:
            yield Row(method, settings, "mnli", plain | started)


def tasks_of(found: pd.DataFrame) -> tuple[str, ...]:
    """The tasks that have a record, in the order of the published tables, others after them."""
    present = set(found["task"])
    return tuple(t for t in (*TASKS, *sorted(present - set(TASKS))) if t in present)


def cell_text(cell: pd.Series | None) -> str:
    """`59.0 ± 1.2 / 58.1 ± 1.4 (5; c1)`: mean and deviation at the best epoch, and at the last."""
    if cell is None:
        return MISSING
    best, last = spread(cell["mean"], cell["sd"]), spread(cell["last_mean"], cell["last_sd"])
    return f"{best} / {last} ({marks(cell)})"


def spread(mean: float, sd: float) -> str:
    """`59.0 ± 1.2`, in per cent: the summary of runs wherever they are shown; of one run its
    score."""
    return percent(mean) + ("" if pd.isna(sd) else f" ± {percent(sd)}")


def marks(cell: pd.Series) -> str:
    """n, then c<k>: k runs collapsed at the best epoch; e<k>: at the end, the last epoch; m:
    started from MNLI; d<k>: k runs of a changed checkout; s: settings searched on dev."""
    found = [str(cell["n"])]
    found += [f"c{cell['collapsed']}"] if cell["collapsed"] else []
    found += [f"e{cell['collapsed_last']}"] if cell["collapsed_last"] else []
    found += ["m"] if cell["start_from"] else []
    found += [f"d{cell['dirty']}"] if cell["dirty"] else []
    found += ["s"] if _saw_dev(cell["searched"]) else []
    return "; ".join(found)


def _saw_dev(searched: str) -> bool:
    return not {"dev", "fold"}.isdisjoint(searched.split(", "))


def mark_notes(found: pd.DataFrame) -> list[str]:
    """What the marks in these cells mean; nothing of marks that do not occur."""
    notes = []
    if found["collapsed"].any():
        notes.append(
            "c1, c2, ...: so many of the n runs are collapsed at the best epoch (one class, or a "
            "constant score)"
        )
    if found["collapsed_last"].any():
        notes.append("e1, e2, ...: so many are so at the end, which is the last epoch")
    if (found["start_from"] != "").any():
        notes.append("m: starts from the adapter and head of the same method trained on MNLI")
    if found["dirty"].any():
        notes.append("d1, d2, ...: so many of the n runs come from a checkout with changes")
    if found["searched"].map(_saw_dev).any():
        notes.append("s: settings searched on the dev split itself, which is the one scored here")
    return notes


def score_table(found: pd.DataFrame, suite: str, model: str) -> Table:
    """Method x task of one suite and model."""
    found = found[(found["suite"] == suite) & (found["model"] == model)]
    tasks = tasks_of(found)
    listed = list(rows(found))
    body = [
        [
            row.name,
            span(row.parameters("adapter")),
            span(row.parameters("head")),
            *(cell_text(row.cells.get(task)) for task in tasks),
            percent(row.average(tasks)),
        ]
        for row in listed
    ]
    header = [
        "method",
        "adapter",
        "head",
        *(NAMES[task] for task in tasks),
        f"mean of {len(tasks)}",
    ]
    metrics = found.drop_duplicates("task").set_index("task")["metric"]
    measured = "; ".join(f"{NAMES[t]} {METRIC_NAMES[metrics[t]]}" for t in tasks)
    return Table(
        name=f"scores_{suite}_{model}",
        title=f"{TITLES[suite]}, {model}: dev scores in per cent",
        header=header,
        rows=body,
        data=found.reset_index(drop=True),
        notes=[
            f"metrics: {measured}",
            "mean ± standard deviation over seeds at the best epoch / at the last epoch (n; marks)",
            "adapter, head: trained parameters; a span where they differ between tasks",
            f"mean of {len(tasks)}: of the means at the best epoch over "
            f"{', '.join(NAMES[t] for t in tasks)}, where all are there",
            *([NO_RECORD] if any(MISSING in line for line in body) else []),
            *mark_notes(found),
        ],
    )


def detail_table(found: pd.DataFrame, suite: str, model: str, intervals: pd.DataFrame) -> Table:
    """One line per cell: everything that is known of it, with the interval of its mean."""
    found = found[(found["suite"] == suite) & (found["model"] == model)]
    data = found.merge(intervals, on=CELL, how="left")
    body = [_detail(cell) for _, cell in data.iterrows()]
    header = ["method", "task", "n", "mean", "sd", "95 % interval", "last mean", "last sd"]
    header += ["best epoch", "collapsed", "at the last", "dev examples"]
    return Table(
        name=f"details_{suite}_{model}",
        title=f"{TITLES[suite]}, {model}: every cell, in per cent",
        header=header,
        rows=body,
        data=data,
        notes=[
            "interval: of the mean, by bootstrap over seeds and dev examples together; - of fewer "
            "than five runs, and without predictions",
            "best epoch: the median over seeds, of so many epochs",
            "collapsed: at the best epoch, one class or a constant score; at the last: at the last "
            "epoch, of the runs of which that is known",
        ],
    )


def _detail(cell: pd.Series) -> list[str]:
    row = Row(cell["method"], cell["settings"], cell["start_from"], {})
    numbers: list[Any] = [cell["n"], percent(cell["mean"]), percent(cell["sd"])]
    numbers += [between(cell["low"], cell["high"], percent)]
    numbers += [percent(cell["last_mean"]), percent(cell["last_sd"])]
    numbers += [f"{cell['best_epoch']:g} of {cell['epochs']}"]
    numbers += [f"{cell['collapsed']} of {cell['n']}"]
    numbers += [f"{cell['collapsed_last']} of {cell['known_last']}", cell["n_dev"]]
    return [row.name, NAMES[cell["task"]], *map(str, numbers)]


def records_by_table(records: Records) -> list[tuple[str, str]]:
    """The (suite, model) pairs that have finished runs, in the order of the report."""
    pairs = records.runs[["suite", "model"]].drop_duplicates()
    return [(str(s), str(m)) for s, m in pairs.itertuples(index=False)]
