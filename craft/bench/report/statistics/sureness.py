"""From saved predictions: intervals of all cells, and one method compared with every other."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportCallIssue=false
# pandas is typed as if every row, column or cell might be any of the three.

from pathlib import Path

import numpy as np
import pandas as pd

from craft.bench.report.differences import PAIR
from craft.bench.report.load import TITLES, Records
from craft.bench.report.statistics import statistics
from craft.bench.report.statistics.statistics import (
    FEWEST,
    Difference,
    bootstrap_scores,
    interval,
    paired_difference,
)
from craft.bench.report.tables.cells import CELL, NAMES, Row
from craft.bench.report.tables.render import MISSING, Table, signed
from craft.bench.run.predictions import Dev, read_predictions
from craft.errors import InputError


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


def comparisons(
    runs: pd.DataFrame, resampled: Resampled, suite: str, model: str, reference: str
) -> pd.DataFrame:
    """The reference's first row less every other, task by task, over the seeds that both have.

    Fewer than FEWEST pairs have a mean difference and nothing that says how sure it is. Holm's
    correction is over all comparisons of this suite and model that could be tested."""
    runs = runs[(runs["suite"] == suite) & (runs["model"] == model)]
    chosen = runs[runs["method"] == reference]
    if chosen.empty:
        return pd.DataFrame(columns=COMPARISON_COLUMNS)
    ours = chosen[chosen["settings"] == chosen["settings"].iloc[0]]
    found: list[dict[str, object]] = []
    tested: list[Difference | None] = []
    for key, theirs in runs.groupby(["method", "settings", "start_from", "task"], sort=False):
        method, settings, start, task = key
        mine = ours[(ours["task"] == task) & (ours["start_from"] == start)]
        if mine.empty or mine["settings"].iloc[0] == settings and method == reference:
            continue
        pair = _paired(mine, theirs, resampled)
        found.append(
            {
                "task": task,
                "start_from": start,
                "method": reference,
                "settings": mine["settings"].iloc[0],
            }
            | {"against": method, "against_settings": settings}
        )
        tested.append(pair)
    p = statistics.holm(np.array([d.p for d in tested if d is not None and d.n >= FEWEST]))
    corrected = iter(p)
    rows = []
    for facts, difference in zip(found, tested, strict=True):
        if difference is None:
            rows.append(facts | {"n": 0, "verdict": ""})
            continue
        row = facts | {"n": difference.n, "difference": 100 * difference.mean, "verdict": ""}
        if difference.n >= FEWEST:
            p_holm = float(next(corrected))
            row |= {"low": 100 * difference.low, "high": 100 * difference.high}
            row |= {"p": difference.p, "p_holm": p_holm, "p_permutation": difference.p_permutation}
            row |= {"detectable": 100 * difference.smallest_detectable(len(p))}
            row |= {"verdict": statistics.verdict(difference, p_holm)}
        rows.append(row)
    return pd.DataFrame(rows, columns=COMPARISON_COLUMNS)


COMPARISON_COLUMNS = [
    "task",
    "start_from",
    "method",
    "settings",
    "against",
    "against_settings",
    "n",
]
COMPARISON_COLUMNS += ["difference", "low", "high", "p", "p_holm", "p_permutation", "detectable"]
COMPARISON_COLUMNS += ["verdict"]


def _paired(mine: pd.DataFrame, theirs: pd.DataFrame, resampled: Resampled) -> Difference | None:
    """The difference over common seeds (and folds) on common examples, None where there is no such
    pair."""
    pairs = mine.reset_index(drop=True).merge(
        theirs.reset_index(drop=True), on=PAIR, suffixes=("_a", "_b")
    )
    pairs = pairs[
        [
            a in resampled.scores and resampled.example_set.get(a) == resampled.example_set.get(b)
            for a, b in zip(pairs["id_a"], pairs["id_b"], strict=True)
        ]
    ]
    if pairs.empty:
        return None
    a, b = (np.stack([resampled.scores[i] for i in pairs[f"id_{s}"]], axis=1) for s in "ab")
    return paired_difference(pairs["best_a"].to_numpy(), pairs["best_b"].to_numpy(), a, b)


def comparison_table(found: pd.DataFrame, suite: str, model: str) -> Table:
    """The reference of a comparison against the others, one line per task."""
    reference = found["method"].iloc[0]

    def p_value(value: float) -> str:
        return MISSING if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"

    body = []
    for _, c in found.iterrows():
        other = Row(c["against"], c["against_settings"], c["start_from"], {}).name
        span = MISSING if pd.isna(c["low"]) else f"{signed(c['low'])} to {signed(c['high'])}"
        detectable = f"{c['detectable']:.1f}" if np.isfinite(c["detectable"]) else MISSING
        body.append(
            [other, NAMES[c["task"]], str(c["n"]), signed(c["difference"]), span]
            + [p_value(c["p"]), p_value(c["p_holm"]), p_value(c["p_permutation"])]
            + [detectable, c["verdict"] or MISSING]
        )
    header = [
        f"{reference} against",
        "task",
        "seeds",
        "difference",
        "95 % interval",
        "p",
        "p (Holm)",
    ]
    header += ["p (permutation)", "detectable", f"{reference} is"]
    return Table(
        name=f"comparison_{suite}_{model}",
        title=f"{TITLES[suite]}, {model}: {reference} less each method, in points, at the best "
        "epoch",
        header=header,
        rows=body,
        data=found,
        notes=[
            *[f"{reference}: {settings}" for settings in found["settings"].unique() if settings],
            "difference: mean over the seeds that both have, on the same dev examples; interval "
            "by paired bootstrap "
            "over seeds and examples together",
            "p: paired t-test over seeds, its variance widened by that over dev examples "
            "(bootstrap); Holm's "
            f"correction over the {int(found['p'].notna().sum())} tests of this table",
            "p (permutation): exact sign changes over seeds alone, not corrected; never below 2 "
            "to the power 1 - seeds",
            "detectable: the smallest true difference that these seeds and examples would have "
            "shown in 80 % of "
            "cases, at the strictest level of the correction; - where no prediction differed",
            "-: fewer than five pairs show neither an interval nor a verdict",
            "seeds: those that both have, with predictions on the same dev examples; 0: there is "
            "nothing to compare",
            "undecided: this many seeds and examples cannot tell; it does not mean that the two "
            "are the same",
        ],
    )
