"""Runs of a search: what they tried, where they were scored, and what they cost the rows that use
their settings."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportCallIssue=false
# pandas is typed as if every row, column or cell might be any of the three.

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from craft.config import flatten
from craft.report.render import Table, percent
from craft.report.settings import describe

KEY = ["suite", "model", "task", "method"]  # what a search is for
COLUMNS = ["id", *KEY, "settings", "seed", "selection", "status", "headline", "best", "seconds"]


def search_row(
    made: Mapping[str, Any], cell: Mapping[str, str], differing: Mapping[str, Any]
) -> dict[str, Any]:
    """A record of a search as a row; `cell` holds what it is for, `differing` its values that are
    not the defaults."""
    provenance = made["provenance"]
    config = provenance["config"]
    whole = dict(flatten({"method": {"peft": config["method"]["peft"]}, "train": config["train"]}))
    score = made["result"]["score"] if made["status"] == "ok" else None
    return {
        "id": made["id"],
        **cell,
        "differing": {k: v for k, v in differing.items() if k != "selection"},  # has a column
        "whole": whole,
        "seed": config["seed"],
        "selection": config.get("selection", "dev"),
        "status": made["status"],
        "headline": score["headline"] if score else "",
        "best": float(score["best"][score["headline"]]) if score else float("nan"),
        "seconds": provenance["seconds"],
    }


def name_settings(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give each row its settings in words: the learning rate, what is not the default, and what
    differs within its search, which matters where a model has no defaults."""
    rows = list(rows)
    named = []
    for row in rows:
        others = [other["whole"] for other in rows if all(other[k] == row[k] for k in KEY)]
        varies = {"train.lr": row["whole"]["train.lr"]} | {
            key: value
            for key, value in row["whole"].items()
            if any(other.get(key) != value for other in others)
        }
        named.append({**row, "settings": describe(row["differing"] | varies)})
    return named


def what_it_took(run: Mapping[str, Any], searched: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Where the searches for a run's method on its task were scored, and all their seconds."""
    ours = [row for row in searched if all(row[key] == run[key] for key in KEY)]
    return {
        "searched": ", ".join(sorted({row["selection"] for row in ours})),
        "search_seconds": float(sum(row["seconds"] for row in ours)),
    }


def search_table(searches: pd.DataFrame) -> Table:
    """Every setting that was tried, the best of each search first."""
    by = [*KEY, "selection", "settings"]
    numbers = {"n": ("best", "count"), "mean": ("best", "mean"), "seconds": ("seconds", "sum")}
    data = searches.groupby(by).agg(**numbers).reset_index()
    data = data.sort_values("mean", ascending=False, kind="stable")
    data = data.sort_values(by[:-1], kind="stable", ignore_index=True)
    body = []
    for _, row in data.iterrows():
        where = "dev" if row["selection"] == "dev" else "a part of train"
        line = [row["model"], row["task"], row["method"], row["settings"], where]
        body.append([*line, str(row["n"]), percent(row["mean"]), f"{row['seconds'] / 3600:.2f}"])
    return Table(
        name="search",
        title="Settings that were searched",
        header=["model", "task", "method", "settings", "scored on", "n", "mean", "hours"],
        rows=body,
        data=data,
        notes=[
            "these runs are in no other table but that of cost; dev is the split that is reported, "
            "and scores whose settings were searched on it bear the mark s",
            "mean: of the headline metric over n finished runs, in per cent; hours: of all "
            "attempts, those that failed too",
        ],
    )
