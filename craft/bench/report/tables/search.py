"""Runs of a search: what they tried, where they were scored, and what they cost the rows that use
their settings."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportCallIssue=false
# pandas is typed as if every row, column or cell might be any of the three.

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from craft.bench.report.differences import describe, is_setting, neutral
from craft.bench.report.tables.render import Table, percent
from craft.bench.run.record import Record
from craft.bench.settings.declared import flatten
from craft.errors import InputError

SCORED_ON = {"dev": "dev", "train_holdout": "a part of train", "fold": "folds of train and dev"}
KEY = ["suite", "digest", "task", "method"]  # what a search is for: weights, not a model's name
COLUMNS = ["id", "suite", "model", "digest", "task", "method", "settings", "seed", "selection"]
COLUMNS += ["status", "headline", "best", "seconds"]
STATED = {"model_digest", "tasks", "method", "settings", "selection"}  # of an unrecorded search


def search_row(
    made: Record, cell: Mapping[str, str], differing: Mapping[str, Any]
) -> dict[str, Any]:
    """A record of a search as a row; `cell` holds what it is for, `differing` its values that are
    not the defaults."""
    provenance = made.provenance
    config = provenance["config"]
    whole = dict(flatten({"method": {"peft": config["method"]["peft"]}, "train": config["train"]}))
    differing = {k: v for k, v in differing.items() if k != "selection"}  # has a column
    score = made.result["score"] if made.status == "ok" else None
    return {
        "id": made.id,
        **cell,
        "differing": differing,
        "whole": whole,
        "fixed": fixed(config, differing),
        "seed": config["seed"],
        "selection": config.get("selection", "dev"),
        "status": made.status,
        "headline": score["headline"] if score else "",
        "best": made.score() if score else float("nan"),
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


def fixed(config: Mapping[str, Any], differing: Mapping[str, Any]) -> dict[str, Any]:
    """The flat settings by which a search is known to cover a run: the method's and the model's
    that are not the default, all of training but how it is computed, and the start."""
    trained = {k: v for k, v in flatten({"train": config["train"]}) if is_setting(k)}
    other = {k: v for k, v in differing.items() if not k.startswith(("train.", "selection"))}
    return other | trained | {"start_from": config.get("start_from")}


def _agree(one: Mapping[str, Any], other: Mapping[str, Any], keys: Iterable[str]) -> bool:
    """Whether settings are the same in these keys; a value that is not stated is the neutral one,
    as in records of before its key."""
    return all(one.get(k, neutral(k)) == other.get(k, neutral(k)) for k in keys)


def what_it_took(
    run: Mapping[str, Any],
    searched: Iterable[Mapping[str, Any]],
    unrecorded: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Where the searches that cover a run were scored, and all their seconds.

    A search covers the runs of its weights, task and method that differ from one of its own in
    nothing but what it varied, the learning rate among it; one without runs on record those of the
    settings that it is said to have chosen."""
    ours = [row for row in searched if all(row[key] == run[key] for key in KEY)]
    known = {k for row in (run, *ours) for k in row["fixed"]}
    varied = {k for k in known if not all(_agree(ours[0]["fixed"], r["fixed"], [k]) for r in ours)}
    held = known - varied - {"train.lr"}
    ours = [row for row in ours if _agree(run["fixed"], row["fixed"], held)]
    said = {
        each["selection"]
        for each in unrecorded
        if (each["model_digest"], each["method"]) == (run["digest"], run["method"])
        and run["task"] in each["tasks"]
        and _agree(run["fixed"], each["settings"], each["settings"])
    }
    return {
        "searched": ", ".join(sorted({row["selection"] for row in ours} | said)),
        "search_seconds": float(sum(row["seconds"] for row in ours)),
    }


def read_unrecorded(path: Path) -> list[dict[str, Any]]:
    """Searches that are known to have been made, and of which no run is on record; none without
    the file."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    for each in found:
        if lacking := sorted(STATED - each.keys()):
            raise InputError(f"{path}: a search lacks {lacking[0]!r}; it has {', '.join(each)}")
    return found


def name_models(rows: list[dict[str, Any]], runs: Iterable[Mapping[str, Any]]) -> None:
    """Add its digest to a search's model whose name stands for several weights."""
    digests: dict[tuple[str, str], set[str]] = {}
    for row in (*rows, *runs):
        digests.setdefault((row["suite"], row["model"]), set()).add(row["digest"])
    for row in rows:
        if len(digests[row["suite"], row["model"]]) > 1:
            row["model"] += f"-{row['digest'][:8]}"


def search_table(searches: pd.DataFrame) -> Table:
    """Every setting that was tried, the best of each search first."""
    by = ["suite", "model", "task", "method", "selection", "settings"]
    numbers = {"n": ("best", "count"), "mean": ("best", "mean"), "seconds": ("seconds", "sum")}
    data = searches.groupby(by).agg(**numbers).reset_index()
    data = data.sort_values("mean", ascending=False, kind="stable")
    data = data.sort_values(by[:-1], kind="stable", ignore_index=True)
    body = []
    for _, row in data.iterrows():
        where = SCORED_ON[row["selection"]]
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
            "that mark is on rows that differ from a search in nothing but what it varied; a "
            "search without a run on record is in results/search/unrecorded.json and in no hours",
            "mean: of the headline metric over n finished runs, in per cent; hours: of all "
            "attempts, those that failed too",
        ],
    )
