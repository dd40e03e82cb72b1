"""Figures from records and closed forms; each comes with the numbers that it shows."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportCallIssue=false
# pandas is typed as if every row, column or cell might be any of the three.

import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from transformers import RobertaConfig

from craft.bench.model.counts import expected_parameters
from craft.bench.report.figures.style import (
    Drawn,
    Looks,
    canvas,
    count_axis,
    legend_below,
    panels,
    styled,
)
from craft.bench.report.load import TITLES, Records
from craft.bench.report.method_files import SHAPES, methods, ordered
from craft.bench.report.tables.cells import METRIC_NAMES, NAMES, Row, rows, tasks_of
from craft.bench.report.tables.published import EIGHT
from craft.bench.report.tables.render import span
from craft.bench.settings.declared import read
from craft.bench.settings.sections import Method

DEPTHS = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96)
WIDTHS = (768, 1024, 4096)  # RoBERTa-base, RoBERTa-large, and a large language model's


def parameters_against_depth(configs: Path, looks: Looks) -> Drawn:
    """Figure 4: trained parameters against depth at fixed ranks, from the methods' closed forms."""
    chosen = {label: as_counted(configs, label) for label in ordered(configs)}
    data = []
    with styled():
        figure = canvas(7.2, 3.4)
        axes = figure.subplots(1, len(WIDTHS), sharey=True)
        for axis, width in zip(axes, WIDTHS, strict=True):
            drawn: list[list[int]] = []
            for label in chosen:
                counts = by_depth(chosen[label], width)
                data += [
                    {"width": width, "method": label, "depth": n, "parameters": c}
                    for n, c in zip(DEPTHS, counts, strict=True)
                ]
                heavy = {"linewidth": 2.4} if label == looks.reference else {}
                # a line that lies on an earlier one is drawn thin above it
                heavy |= {"linewidth": 0.7, "markersize": 2} if counts in drawn else {}
                drawn.append(counts)
                name = f"{label} {_size(chosen[label]['peft'])}"
                axis.plot(DEPTHS, counts, label=name, **{**looks.line(label), **heavy})
            for shape in SHAPES.values():
                if shape.hidden_size == width:
                    axis.axvline(shape.num_hidden_layers, color="#888888", linewidth=0.6)
            axis.set(xscale="log", yscale="log", title=_title(width), xlabel="layers")
            axis.set_xticks([2, 6, 12, 24, 48, 96], ["2", "6", "12", "24", "48", "96"])
            axis.minorticks_off()
        axes[0].set_ylabel("trained parameters besides the head")
        legend_below(figure, axes, columns=4)
    return Drawn("parameters_against_depth", figure, pd.DataFrame(data))


def as_counted(configs: Path, label: str) -> dict[str, Any]:
    """A method with the fields that the paper counts it with."""
    method = methods(configs, "roberta_base")[label]
    return {**method, "peft": method["peft"] | method["facts"].get("paper_counts", {})}


def by_depth(method: Mapping[str, Any], width: int) -> list[int]:
    """What a method trains at each of DEPTHS: counted until three in a row lie on a line, from
    there on that line (CRAFT's r1 is clipped to the depth, so that its line begins at r1)."""
    counts: list[int] = []
    for n, depth in enumerate(DEPTHS):
        if n >= 3:
            (first, second, third), before = DEPTHS[n - 3 : n], counts[-3:]
            rise, later = before[1] - before[0], before[2] - before[1]
            if rise * (third - second) == later * (second - first):
                counts.append(before[2] + later * (depth - third) // (third - second))
                continue
        counts.append(expected_parameters(read(Method, method), _shape(width, depth)))
    return counts


def _size(peft: Mapping[str, Any]) -> str:
    """What a method's size is fixed at: `24×100×100`, `r=8`, `bottleneck=64`."""
    if "ranks" in peft:
        return "×".join(map(str, peft["ranks"]))
    key = "r" if "r" in peft else "bottleneck"
    return f"{key}={peft[key]}"


def _title(width: int) -> str:
    known = {768: "RoBERTa-base's width 768", 1024: "RoBERTa-large's width 1024"}
    return known.get(width, f"width {width}")


def _shape(width: int, depth: int) -> RobertaConfig:
    return RobertaConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )


def score_against_parameters(
    found: pd.DataFrame, published: pd.DataFrame, suite: str, model: str, looks: Looks
) -> Drawn | None:
    """Mean score against adapter parameters, with the front of rows that no other beats in both."""
    found = found[(found["suite"] == suite) & (found["model"] == model)]
    tasks = tasks_of(found)
    points, partial = [], []
    for row in rows(found):
        average = row.average(tasks)
        if average is None:
            partial.append(row.name)
            continue
        seeds = [int(cell["n"]) for cell in row.cells.values()]
        points.append(
            {"method": row.method, "row": row.name, "parameters": row.parameters("adapter").max()}
            | {"score": 100 * average, "fewest_seeds": min(seeds), "most_seeds": max(seeds)}
            | {"source": "ours"}
        )
    if suite == "paper" and tasks == EIGHT:
        points += [
            {"method": r["method"], "row": r["method"], "parameters": 1e6 * r["params_millions"]}
            | {"score": r[list(EIGHT)].mean(), "source": "published"}
            for _, r in published[published["model"] == model].iterrows()
        ]
    if not points:
        return None
    data = pd.DataFrame(points)
    with styled():
        figure = canvas(5.0, 3.8)
        axis = figure.subplots()
        front = _front(data[data["source"] == "ours"])
        axis.step(front["parameters"], front["score"], where="post", color="#BBBBBB", zorder=1)
        for _, point in data.iterrows():
            ours = point["source"] == "ours"
            look = looks.point(point["method"], _variant(data, point["method"], point["row"]))
            fill = look["color"] if ours else "none"
            axis.scatter(
                point["parameters"],
                point["score"],
                marker=look["marker"],
                facecolors=fill,
                edgecolors=look["color"],
                s=34,
                zorder=2,
                clip_on=False,
                label=point["row"] if ours else f"{point['row']} (published)",
            )
        count_axis(axis, data["parameters"].max())
        axis.set(
            xlabel="adapter parameters (zero at the left edge)",
            ylabel=f"{_mean(len(tasks))}, per cent\n({_seeds(data)})",
        )
        figure.suptitle(f"{TITLES[suite]}, {model}\n{', '.join(NAMES[t] for t in tasks)}")
        if partial:
            left_out = f"not shown, without a record of every task: {'; '.join(partial)}"
            axis.set_title(textwrap.fill(left_out, 72), fontsize=6.5)
        legend_below(figure, [axis], columns=3)
    return Drawn(f"pareto_{suite}_{model}", figure, data)


def _mean(tasks: int) -> str:
    return "dev score" if tasks == 1 else f"mean of {tasks} dev scores"


def _seeds(data: pd.DataFrame) -> str:
    """`means over 3 seeds`, of the rows that are ours."""
    counted = pd.concat([data["fewest_seeds"], data["most_seeds"]])
    text = span(counted)
    return f"means over {text} seed{'' if text == '1' else 's'}"


def _variant(data: pd.DataFrame, method: str, row: str) -> int:
    """The place of a row among the rows of its method."""
    return list(dict.fromkeys(data.loc[data["method"] == method, "row"])).index(row)


def _front(data: pd.DataFrame) -> pd.DataFrame:
    """The rows with the best score among all that are no larger, by size."""
    ordered = data.sort_values(["parameters", "score"], ascending=[True, False])
    best_before = ordered["score"].astype("float64").cummax().shift(fill_value=-math.inf)
    return ordered[ordered["score"] > best_before]


def _task_runs(records: Records, suite: str, model: str) -> pd.DataFrame:
    runs = records.runs[(records.runs["suite"] == suite) & (records.runs["model"] == model)]
    labels = [Row(r["method"], r["settings"], r["start_from"], {}).name for _, r in runs.iterrows()]
    return runs.assign(row=labels)


def score_per_task(records: Records, suite: str, model: str, looks: Looks) -> Drawn:
    """Every seed's score as a point, the mean as a bar, one panel per task."""
    runs = _task_runs(records, suite, model)
    tasks, names = tasks_of(runs), list(dict.fromkeys(runs["row"]))
    data = runs[["task", "row", "method", "seed", "best", "collapsed"]].assign(
        best=100 * runs["best"]
    )
    high = 0.5 + 0.17 * len(names)
    with styled():
        figure, axes = panels(
            len(tasks),
            3,
            lambda lines, columns: (max(4.8, 1.4 + 2.2 * columns), 0.7 + lines * high),
            sharey=True,
        )
        for axis, task in zip(axes, tasks, strict=True):
            for place, name in enumerate(names):
                chosen = data[(data["task"] == task) & (data["row"] == name)]
                if chosen.empty:
                    continue
                look = looks.point(chosen["method"].iloc[0])
                ys = place + np.linspace(-0.15, 0.15, len(chosen)) * (len(chosen) > 1)
                axis.scatter(chosen["best"], ys, s=12, linewidths=0, alpha=0.75, **look)
                axis.vlines(chosen["best"].mean(), place - 0.34, place + 0.34, color="black")
            metric = METRIC_NAMES[runs[runs["task"] == task]["headline"].iloc[0]]
            axis.set(title=NAMES[task], xlabel=metric)
            axis.xaxis.set_major_locator(MaxNLocator(5))
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        figure.suptitle(
            f"{TITLES[suite]}, {model}\ndev score of every seed, best epoch, per cent (bar: mean)"
        )
    return Drawn(f"tasks_{suite}_{model}", figure, data)


def learning_curves(records: Records, suite: str, model: str, looks: Looks) -> Drawn:
    """The headline metric by epoch: every seed thin, the mean over seeds thick."""
    runs = _task_runs(records, suite, model)
    tasks, names = tasks_of(runs), list(dict.fromkeys(runs["row"]))
    facts = runs.reset_index(drop=True)[["id", "task", "row", "method", "seed"]]
    data = facts.merge(records.history[["id", "epoch", "score"]], on="id").drop(columns="id")
    data["score"] *= 100
    with styled():
        figure, axes = panels(
            len(tasks),
            3,
            lambda lines, columns: (max(4.8, 0.6 + 2.3 * columns), 0.8 + 1.9 * lines),
        )
        for axis, task in zip(axes, tasks, strict=True):
            for name in names:
                chosen = data[(data["task"] == task) & (data["row"] == name)]
                if not chosen.empty:
                    method = chosen["method"].iloc[0]
                    look = looks.line(method, _variant(data, method, name))
                    _curve(axis, chosen, name, look, heavy=name == looks.reference)
            axis.set(title=NAMES[task], xlabel="epoch", ylabel="dev score, per cent")
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        meaning = "thin: every seed; marked: mean over seeds"
        figure.suptitle(f"{TITLES[suite]}, {model}\ndev score by epoch ({meaning})")
        legend_below(figure, axes, columns=3, order=names)
    return Drawn(f"curves_{suite}_{model}", figure, data)


def _curve(axis: Axes, chosen: pd.DataFrame, name: str, look: dict[str, Any], heavy: bool) -> None:
    for _, seed in chosen.groupby("seed"):
        axis.plot(seed["epoch"], seed["score"], color=look["color"], linewidth=0.4, alpha=0.5)
    mean = chosen.groupby("epoch")["score"].mean()
    every = max(1, len(mean) // 5)
    weight = {"linewidth": 2.0, "zorder": 3} if heavy else {"linewidth": 0.9}
    axis.plot(mean.index, mean, label=name, markevery=every, markersize=3, **look, **weight)


def score_against_ranks(records: Records, suite: str, model: str, looks: Looks) -> Drawn | None:
    """The reference's score at each choice of ranks, by parameters; None where there is but one."""
    runs = _task_runs(records, suite, model)
    alone = runs["settings"].map(lambda s: re.sub(r"ranks=\([^)]*\)", "", s) == "")
    runs = runs[(runs["method"] == looks.reference) & alone & (runs["start_from"] == "")]
    several = runs.groupby("task")["effective_ranks"].transform("nunique") > 1
    runs = runs[several.astype(bool)]
    if runs.empty:
        return None
    ranks = [json.loads(r) for r in runs["effective_ranks"]]
    data = runs[["task", "seed", "parameters_adapter", "best"]].assign(
        ranks=["×".join(map(str, next(iter(r.values())))) for r in ranks], best=100 * runs["best"]
    )
    names: Sequence[str] = list(data.sort_values("parameters_adapter")["ranks"].drop_duplicates())
    tasks = tasks_of(data)
    with styled():
        figure, axes = panels(
            len(tasks),
            3,
            lambda lines, columns: (max(4.8, 0.6 + 2.4 * columns), 0.5 + 2.3 * lines),
        )
        for axis, task in zip(axes, tasks, strict=True):
            chosen = data[data["task"] == task]
            places = [names.index(r) for r in chosen["ranks"]]
            axis.scatter(places, chosen["best"], s=12, linewidths=0, **looks.point(looks.reference))
            mean = chosen.groupby("ranks")["best"].mean()
            known = [n for n in names if n in mean.index]
            axis.plot([names.index(n) for n in known], mean[known], color="#888888", zorder=0)
            axis.set(title=NAMES[task], ylabel="dev score, per cent")
            axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
        figure.suptitle(
            f"{TITLES[suite]}, {model}\n{looks.reference} at ranks r1×r2×r3 (line: mean)"
        )
    return Drawn(f"ranks_{suite}_{model}", figure, data)
