"""One method compared with every other, from saved predictions: how sure each difference is."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportCallIssue=false
# pandas is typed as if every row, column or cell might be any of the three.

import numpy as np
import pandas as pd

from craft.bench.report.differences import PAIR
from craft.bench.report.load import TITLES
from craft.bench.report.resampling import Resampled
from craft.bench.report.statistics import FEWEST, Difference, holm, paired_difference, verdict
from craft.bench.report.tables.cells import NAMES, Row
from craft.bench.report.tables.render import MISSING, Table, between, p_text, signed

COLUMNS = ["task", "start_from", "method", "settings", "against", "against_settings", "n"]
COLUMNS += ["difference", "low", "high", "p", "p_holm", "p_permutation", "detectable", "verdict"]


def comparisons(
    runs: pd.DataFrame, resampled: Resampled, suite: str, model: str, reference: str
) -> pd.DataFrame:
    """The reference's first row less every other, task by task, over the seeds that both have.

    Fewer than FEWEST pairs have a mean difference and nothing that says how sure it is. Holm's
    correction is over all comparisons of this suite and model that could be tested."""
    runs = runs[(runs["suite"] == suite) & (runs["model"] == model)]
    chosen = runs[runs["method"] == reference]
    if chosen.empty:
        return pd.DataFrame(columns=COLUMNS)
    ours = chosen[chosen["settings"] == chosen["settings"].iloc[0]]
    found: list[dict[str, object]] = []
    tested: list[Difference | None] = []
    for key, theirs in runs.groupby(["method", "settings", "start_from", "task"], sort=False):
        method, settings, start, task = key
        mine = ours[(ours["task"] == task) & (ours["start_from"] == start)]
        if mine.empty or mine["settings"].iloc[0] == settings and method == reference:
            continue
        pair = _paired(mine, theirs, resampled)
        facts = {"task": task, "start_from": start, "method": reference}
        facts |= {"settings": mine["settings"].iloc[0]}
        found.append(facts | {"against": method, "against_settings": settings})
        tested.append(pair)
    p = holm(np.array([d.p for d in tested if d is not None and d.n >= FEWEST]))
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
            row |= {"verdict": verdict(difference, p_holm)}
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


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
    body = []
    for _, c in found.iterrows():
        other = Row(c["against"], c["against_settings"], c["start_from"], {}).name
        detectable = f"{c['detectable']:.1f}" if np.isfinite(c["detectable"]) else MISSING
        body.append(
            [other, NAMES[c["task"]], str(c["n"]), signed(c["difference"])]
            + [between(c["low"], c["high"])]
            + [p_text(c["p"]), p_text(c["p_holm"]), p_text(c["p_permutation"])]
            + [detectable, c["verdict"] or MISSING]
        )
    header = [f"{reference} against", "task", "seeds", "difference", "95 % interval"]
    header += ["p", "p (Holm)", "p (permutation)", "detectable", f"{reference} is"]
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
