"""Table 2 with our runs beside it: published, reproduced, the difference, within tolerance or not.

Both scores are on the same dev examples, so that seeds alone set them apart: the tolerance is two
standard deviations over seeds, the published row's where it has them, otherwise those of our own
runs. Of a row that is one run of the authors', five of ours with the same mean and deviation are
then within in 6 of 7 cases: P(|t| < 2 / sqrt(1 + 1/5)) with 4 degrees of freedom.
"""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportCallIssue=false
# pandas is typed as if every row, column or cell might be any of the three.

import math
from collections.abc import Iterator

import pandas as pd

from craft.bench.report.load import Records
from craft.bench.report.statistics import FEWEST
from craft.bench.report.tables.cells import (
    NAMES,
    Row,
    by_metric,
    cells,
    mark_notes,
    marks,
    rows,
    spread,
)
from craft.bench.report.tables.published import EIGHT, SIX
from craft.bench.report.tables.render import MISSING, NO_RECORD, Table, percent, signed

# Points. A printed score and a printed deviation are rounded by up to 0.05 each: two of the latter.
ROUNDING = 0.05 + 2 * 0.05
# log ratio: the table's 3M and 6M adapters have 3.2M and 6.3M numbers by their own formula
SAME_SIZE = 0.15
STARTED = ("mrpc", "rte", "stsb")  # from MNLI, in rows whose `start` is mnli
WORDS = {"*": "copied from LoRA", "†": "copied from LoRA, restricted setup", "own": "the authors'"}


def counterparts(published: pd.Series, listed: list[Row]) -> list[Row]:
    """Our rows of the same method and about as many parameters: full fine-tuning counts the
    backbone."""
    found = []
    for row in listed:
        adapter = row.parameters("adapter").max()
        if row.method == published["method"] and adapter > 0:
            ratio = math.log(adapter / (1e6 * published["params_millions"]))
            found += [row] if abs(ratio) < SAME_SIZE else []
    return found


def judge(published: pd.Series, task: str, cell: pd.Series) -> dict[str, object]:
    """The difference in points, the tolerance it is held against, and whether it is within; None
    where neither the published row nor we have a deviation, ours being of five runs or more.

    The tolerance is never less than what rounding or one dev example makes."""
    difference = 100 * cell["mean"] - published[task]
    deviation, rule = published[f"sd_{task}"], "published sd"
    if math.isnan(deviation) and cell["n"] >= FEWEST:
        deviation, rule = 100 * cell["sd"], "own sd"
    if math.isnan(deviation):
        return {"difference": difference, "tolerance": float("nan"), "rule": "", "within": None}
    tolerance = max(2 * deviation, ROUNDING, 100 / cell["n_dev"])
    within = bool(abs(difference) <= tolerance + 1e-9)  # a difference of just 2 sd is within
    return {"difference": difference, "tolerance": tolerance, "rule": rule, "within": within}


def reproduction_table(published: pd.DataFrame, records: Records, model: str) -> Table:
    """Table 2 for `roberta_base` or `roberta_large`; rows without a record say so.

    Beside a published row whose MNLI score is of a metric of its own, ours is of that one, too."""
    theirs = published[published["model"] == model]
    ours = _ours(records.runs, model)
    listed = {"": list(_listed(ours, model))}
    for metric in set(theirs["mnli_metric"]) - {""}:
        measured = _ours(by_metric(records, "mnli", metric), model)
        listed[metric] = list(_listed(measured, model))
    body: list[list[str]] = []
    data: list[dict[str, object]] = []
    matched: set[str] = set()
    for _, row in theirs.iterrows():
        body.append(_published_line(row))
        matching = counterparts(row, listed[row["mnli_metric"]])
        matched |= {match.name for match in matching}
        if not matching:
            body.append(["reproduced", MISSING, *[MISSING] * 10])
            data += [_data(row, None, task, None) for task in EIGHT]
        for match in matching:
            body += list(_our_lines(row, match))
            data += [_data(row, match, task, match.cells.get(task)) for task in EIGHT]
    return Table(
        name=f"table2_{model}",
        title=f"Table 2 of arXiv 2602.17510v1, {model}: published and reproduced GLUE dev scores",
        header=["method", "parameters", *(NAMES[t] for t in EIGHT), "mean of 8", "mean of 6"],
        rows=body,
        data=pd.DataFrame(data),
        notes=[
            "published: *: copied there from LoRA (arXiv 2106.09685), whose own runs are medians "
            "of 5 seeds; †: the same, restricted setup; own: the authors' run, one seed",
            "LoRA with * and FT on large start MRPC, RTE and STS-B from MNLI, rows with † do not; "
            "of the others it is unknown",
            "reproduced: rerun here, mean ± standard deviation over seeds at the best epoch (n; "
            "marks)",
            NO_RECORD,
            "difference in points; in: within 2 standard deviations over seeds, the published "
            "row's or, where it has none, those of five or more of our runs; out: not; ?: neither "
            "is there",
            f"tolerance: never less than {ROUNDING:g} points (a printed score and a printed "
            "deviation are rounded) nor than one dev example; dev examples are the same in both "
            "and widen nothing",
            "where the published row is one run, five of ours that differ by nothing but seeds "
            "are out in 1 case of 7",
            "s: starts elsewhere (pre-trained model or MNLI) than the published row",
            f"mean of 6: {', '.join(NAMES[t] for t in SIX)}, of published rows our own mean of "
            "the printed scores",
            *(f"{_name(row)}: {row['note']}" for _, row in theirs.iterrows() if row["note"]),
            "whether our weights are the published ones by digest or by architecture alone: table "
            "of encoders",
            *left_out(theirs, [row for row in listed[""] if row.name not in matched]),
            *mark_notes(ours),
        ],
    )


def _ours(runs: pd.DataFrame, model: str) -> pd.DataFrame:
    """Our cells of the paper's tasks on this model, whatever its weights."""
    found = cells(runs)
    named = (found["model"] == model) | found["model"].str.startswith(f"{model}-")
    return found[(found["suite"] == "paper") & named]


def _listed(ours: pd.DataFrame, model: str) -> Iterator[Row]:
    for name, weights in ours.groupby("model", sort=False):
        extra = "" if name == model else f"weights={str(name).removeprefix(model)[1:]}"
        settings = [", ".join(filter(None, (s, extra))) for s in weights["settings"]]
        yield from rows(weights.assign(settings=settings))


def left_out(published: pd.DataFrame, alone: list[Row]) -> list[str]:
    """Why rows of ours stand beside no published row."""
    notes = []
    for row in alone:
        sizes = published[published["method"] == row.method]["params_millions"]
        count = row.parameters("adapter").max()
        if sizes.empty:
            reason = f"no published row of {row.method}"
        else:
            there = ", ".join(f"{size:g}M" for size in sizes)
            reason = f"it trains {count:,.0f} numbers, published are {there}"
        notes.append(f"not in this table: {row.name}: {reason}")
    return notes


def _published_line(row: pd.Series) -> list[str]:
    def score(task: str) -> str:
        deviation = row[f"sd_{task}"]
        return f"{row[task]:.1f}" + ("" if math.isnan(deviation) else f" ± {deviation:.1f}")

    means = [f"{row['avg']:.1f}", f"{row[list(SIX)].mean():.1f}"]
    return [
        f"{row['method']} (published, {row['mark']})",
        f"{row['params_millions']:g}M",
        *map(score, EIGHT),
        *means,
    ]


def _name(row: pd.Series) -> str:
    """A published row where notes speak of it: methods stand there in several sizes."""
    return f"{row['method']} (published, {row['mark']}; {row['params_millions']:g}M)"


def _our_lines(row: pd.Series, match: Row) -> Iterator[list[str]]:
    """Our scores, and below them the differences."""
    count = f"{match.parameters('adapter').max():,.0f}"
    scores, differences = [], []
    for task in EIGHT:
        cell = match.cells.get(task)
        if cell is None:
            scores.append(MISSING)
            differences.append(MISSING)
            continue
        judged = judge(row, task, cell)
        word = {None: "?", True: "in", False: "out"}[judged["within"]]  # type: ignore[index]
        scores.append(f"{spread(cell['mean'], cell['sd'])} ({marks(cell)})")
        word += " s" if _other_start(row, task, cell) else ""
        differences.append(f"{signed(judged['difference'])} {word}")  # type: ignore[arg-type]
    means = [match.average(tasks) for tasks in (EIGHT, SIX)]
    yield [f"reproduced {match.name}", count, *scores, *map(percent, means)]
    apart = [
        MISSING if mean is None else signed(100 * mean - row[list(tasks)].mean())
        for mean, tasks in zip(means, (EIGHT, SIX), strict=True)
    ]
    yield ["difference", "", *differences, *apart]


def _other_start(row: pd.Series, task: str, cell: pd.Series) -> bool:
    """Whether the published score of this task is known to start elsewhere than our runs."""
    published = "mnli" if row["start"] == "mnli" and task in STARTED else ""
    return row["start"] != "" and published != cell["start_from"]


def _data(
    row: pd.Series, match: Row | None, task: str, cell: pd.Series | None
) -> dict[str, object]:
    data: dict[str, object] = {
        "id": row["id"],
        "model": row["model"],
        "method": row["method"],
        "mark": row["mark"],
        "published_origin": WORDS[row["mark"]],
        "published_start": row["start"],
        "published_params_millions": row["params_millions"],
        "task": task,
        "published": row[task],
        "published_sd": row[f"sd_{task}"],
        "settings": match.settings if match else "",
        "reproduced_start": "",
        "n": 0,
    }
    if cell is None:
        return data
    return (
        data
        | {"reproduced_start": cell["start_from"], "n": cell["n"], "metric": cell["metric"]}
        | {"reproduced": 100 * cell["mean"], "sd": 100 * cell["sd"]}
        | {"last": 100 * cell["last_mean"], "last_sd": 100 * cell["last_sd"]}
        | {"collapsed": cell["collapsed"], "parameters_adapter": cell["parameters_adapter"]}
        | judge(row, task, cell)
    )
