"""Run records -> a tidy table of runs and one of scores; failed and unreadable ones apart."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportCallIssue=false
# pandas is typed as if every row, column or cell might be any of the three.

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pandas as pd

from craft.bench.glue.metrics import collapsed
from craft.bench.report.differences import (
    PAIR,
    apart,
    describe,
    fold_of,
    settings_of,
)
from craft.bench.report.method_files import ordered
from craft.bench.report.tables.search import (
    COLUMNS,
    fixed,
    name_models,
    name_settings,
    read_unrecorded,
    search_row,
    what_it_took,
)
from craft.bench.run import record
from craft.bench.run.identity import KNOWN
from craft.bench.run.predictions import read_predictions
from craft.bench.run.record import Record
from craft.bench.settings.declared import flatten
from craft.errors import InputError

TASKS = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb", "wnli")  # as in Table 2
SUITES = ("paper", "small", "mini")
TITLES = {
    "paper": "GLUE",
    "small": "GLUE, small encoder",
    "mini": "mini-GLUE (synthetic, not GLUE)",
}
Source = str | Callable[[Record], Any]  # of a column: a path in a record, or a function
IDENTITY = ("protocol", "model.digest", "data.digest")  # what tells rows apart besides settings


@dataclass(frozen=True)
class Records:
    """What a folder of records holds.

    `runs`           one row per finished run, indexed by id, with its headline metric
    `scores`         one row per finished run and metric: the table to cite
    `history`        one row per finished run and epoch: epoch, loss, lr and the headline metric
    `searches`       one row per run of a search, which is in none of the others
    `unsuccessful`   failed and diverged runs
    `left_out`       one line per file that is no sound record of this schema
    `raw`            the finished records themselves, by id
    `reference`      the method that others are compared with"""

    runs: pd.DataFrame
    scores: pd.DataFrame
    history: pd.DataFrame
    searches: pd.DataFrame
    unsuccessful: pd.DataFrame
    left_out: list[str]
    raw: dict[str, Record]
    reference: str

    @property
    def empty(self) -> bool:
        """Whether there was no file at all."""
        frames = (self.runs, self.searches, self.unsuccessful)
        return all(frame.empty for frame in frames) and not self.left_out


def load(
    folders: Iterable[Path],
    configs: Path,
    searches: Iterable[Path] = (),
    unrecorded: Path | None = None,
) -> Records:
    """Read every record under the folders; a run that is found twice counts once.

    A search's runs are those whose config says so, and all in the folders `searches`; `unrecorded`
    is a file of searches without a run on record."""
    rows, scores, history, unsuccessful, left_out = {}, [], [], [], []
    raw: dict[str, Record] = {}
    searched: dict[str, dict[str, Any]] = {}
    found = [(*one, False) for folder in folders for one in sound_records(folder, left_out)]
    found += [(*one, True) for folder in searches for one in sound_records(folder, left_out)]
    for path, made, of_a_search in found:
        try:
            if of_a_search or made.provenance["config"].get("search"):
                if made.id not in rows:
                    searched[made.id] = _searched(made)
                continue
            if made.status != "ok":
                unsuccessful.append(_row(made, UNSUCCESSFUL_COLUMNS))
                continue
            run = _run(path, made)
            metrics = _metrics(made)
            curve = _history(made)
        except InputError as error:
            left_out.append(f"{path}: {error}")
            continue
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            left_out.append(f"{path}: lacks what a report needs ({type(error).__name__}: {error})")
            continue
        if run["id"] in rows:
            if made.result_sha256 != rows[run["id"]]["sha256"]:
                other = rows[run["id"]]["path"]
                left_out.append(f"{path}: another result of the same run than {other}")
            continue
        rows[run["id"]] = run | {"sha256": made.result_sha256}
        raw[run["id"]] = made
        scores += [{"id": run["id"], **metric} for metric in metrics]
        history += [{"id": run["id"], **entry} for entry in curve]
    said = read_unrecorded(unrecorded) if unrecorded is not None else []
    for run in rows.values():
        run |= what_it_took(run, searched.values(), said)
    name_models(list(searched.values()), rows.values())
    runs = pd.DataFrame(rows.values(), columns=[*RUN_COLUMNS, "settings_by_key", "sha256"])
    reference = ordered(configs, raw.values())[0]
    runs = _name_rows(runs.set_index("id", drop=False), raw, reference)
    return Records(
        runs=runs,
        scores=_score_rows(runs, scores),
        history=pd.DataFrame(history, columns=["id", "epoch", "step", "loss", "lr", "score"]),
        searches=pd.DataFrame(name_settings(searched.values()), columns=COLUMNS),
        unsuccessful=pd.DataFrame(unsuccessful, columns=UNSUCCESSFUL_COLUMNS).sort_values(
            "name", ignore_index=True
        ),
        left_out=left_out,
        raw=raw,
        reference=reference,
    )


def sound_records(folder: Path, left_out: list[str]) -> list[tuple[Path, dict[str, Any]]]:
    """Path and record of every sound record under a folder; a line on each other is added to
    `left_out`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = list(record.read_all(folder))
    left_out += [str(w.message).removeprefix("left out: ") for w in caught]
    return found


def suite_of(provenance: Mapping[str, Any]) -> str:
    """`mini` for generated data, `paper` for the paper's encoders on GLUE, if the record says how
    the weights were found to be theirs, otherwise `small`."""
    if provenance["data"]["source"]["source"] == "mini":
        return "mini"
    return "paper" if provenance["model"].get("verified") else "small"


def model_of(provenance: Mapping[str, Any]) -> str:
    """The model's name; where its record is of before encoders given as folders had one, that of
    its known weights, or the start of their digest."""
    model = provenance["model"]
    if model["name"] != "local":
        return str(model["name"])
    known = KNOWN.get(model["digest"])
    return known.name if known else f"local-{model['digest'][:8]}"


def _run(path: Path, made: Record) -> dict[str, Any]:
    if lacking := [key for key in IDENTITY if key not in made.result["config"]]:
        raise KeyError(lacking[0])
    differing = settings_of(made.provenance)
    return _row(replace(made, provenance=made.provenance | {"path": str(path)}), RUN_COLUMNS) | {
        "settings_by_key": differing,
        "fixed": fixed(made.provenance["config"], differing),
        "digest": made.provenance["model"]["digest"],
    }


def _row(made: Record, columns: Mapping[str, Source]) -> dict[str, Any]:
    return {
        name: at(made, source) if isinstance(source, str) else source(made)
        for name, source in columns.items()
    }


def at(made: Record, path: str) -> Any:
    """The value at a dotted path of a record; KeyError where it is not there."""
    first, *rest = path.split(".")
    return reduce(getitem, rest, getattr(made, first))


def _collapsed_last(made: Record) -> bool | None:
    """As the record says it; from the predictions of a record that does not; None without them."""
    if "collapsed_last" in made.result["score"]:
        return bool(made.result["score"]["collapsed_last"])
    try:
        found = read_predictions(Path(made.provenance["path"]), made, "last")
    except InputError:
        return None  # `Resampled` names what is wrong with them
    regression = not at(made, "provenance.config.task.labels")
    return None if found is None else collapsed(found[1], regression)


def _examples_of_dev(made: Record) -> int:
    examples = at(made, "provenance.data.examples")
    return sum(examples[split] for split in at(made, "provenance.config.task.dev"))


def _backbone(made: Record) -> int:
    """peft keeps the untrained head beside the trained one, so that the total holds two."""
    parameters = made.result["parameters"]
    return parameters["total"] - parameters["adapter"] - 2 * parameters["head"]


def _effective_ranks(made: Record) -> str:
    ranks = at(made, "result.parameters.effective_ranks")
    return json.dumps(ranks) if ranks else ""


def _hardware(made: Record) -> str:
    hardware = at(made, "provenance.environment.hardware")
    return hardware["gpu"] or hardware["cpu"]


# Of `Records.runs`; `path` is the record's own.
RUN_COLUMNS: dict[str, Source] = {
    "id": "id",
    "name": "provenance.name",
    "suite": lambda made: suite_of(made.provenance),
    "model": lambda made: model_of(made.provenance),
    "task": "provenance.config.task.name",
    "method": "provenance.config.method.label",
    "settings": lambda made: describe(settings_of(made.provenance)),
    "seed": "provenance.config.seed",
    "fold": lambda made: fold_of(made.provenance["config"]),
    "start_from": lambda made: at(made, "provenance.config.start_from") or "",
    "headline": "result.score.headline",
    "best": lambda made: made.score("best"),
    "last": lambda made: made.score("last"),
    "best_epoch": "result.score.best_epoch",
    "epochs": lambda made: len(made.result["history"]),
    "collapsed": lambda made: bool(at(made, "result.score.collapsed")),
    "collapsed_last": _collapsed_last,
    "n_train": "provenance.data.examples.train",
    "n_dev": _examples_of_dev,
    "parameters_adapter": "result.parameters.adapter",
    "parameters_head": "result.parameters.head",
    "parameters_backbone": _backbone,
    "effective_ranks": _effective_ranks,
    "attach_seconds": "provenance.cost.attach_seconds",
    "train_seconds": "provenance.cost.train_seconds",
    "eval_seconds": "provenance.cost.eval_seconds",
    "steps_per_second": "provenance.cost.steps_per_second",
    "tokens_per_second": "provenance.cost.tokens_per_second",
    "peak_host_megabytes": "provenance.cost.peak_megabytes.host",
    "peak_gpu_megabytes": "provenance.cost.peak_megabytes.gpu",
    "adapter_bytes": "provenance.cost.adapter_bytes",
    "seconds": "provenance.seconds",  # all attempts, loading and evaluation included
    "searched": lambda made: "",  # filled in when the searches are known
    "search_seconds": lambda made: 0.0,
    "precision": "provenance.config.train.precision",
    "device": "provenance.config.train.device",
    "hardware": _hardware,
    "dirty": lambda made: at(made, "provenance.environment.dirty") is not False,
    "path": "provenance.path",
}
UNSUCCESSFUL_COLUMNS: dict[str, Source] = {
    **{name: RUN_COLUMNS[name] for name in ("name", "suite", "model", "task", "method")},
    "status": "status",
    "error": lambda made: made.error or "",
    "seconds": lambda made: sum(a["seconds"] for a in made.provenance.get("attempts", [])),
}


def _searched(made: Record) -> dict[str, Any]:
    cell = _row(made, {name: RUN_COLUMNS[name] for name in ("suite", "model", "task", "method")})
    cell |= {"digest": made.provenance["model"]["digest"]}
    return search_row(made, cell, settings_of(made.provenance))


def _metrics(made: Record) -> list[dict[str, Any]]:
    score = made.result["score"]
    return [
        {"metric": m, "is_headline": m == score["headline"], "best": v, "last": score["last"][m]}
        for m, v in score["best"].items()
    ]


def _history(made: Record) -> list[dict[str, Any]]:
    headline = made.result["score"]["headline"]
    return [
        {k: entry[k] for k in ("epoch", "step", "loss", "lr")} | {"score": entry[headline]}
        for entry in made.result["history"]
    ]


def _name_rows(runs: pd.DataFrame, raw: dict[str, Record], reference: str) -> pd.DataFrame:
    """Complete `model` and `settings`, so that rows differ in name where runs differ in substance;
    the reference's come first.

    A model name that stands for several weights gets their digest, a task of several data sets
    theirs (folds have a data set of their own, which their settings name), and what differs inside
    a cell besides seed and fold is added to the settings."""
    identities = {i: dict(flatten(made.result["config"])) for i, made in raw.items()}
    for facts in identities.values():
        known = KNOWN.get(facts["model.digest"])
        facts.setdefault("tokenizer.digest", known.tokenizer if known else "unknown")

    def known(key: str) -> pd.Series:
        return pd.Series({i: identities[i][key] for i in runs.index}, dtype=object)

    weights = known("model.digest")
    several = weights.groupby([runs["suite"], runs["model"]]).transform("nunique") > 1
    named = several & ~runs["model"].str.startswith("local-")
    runs["model"] = runs["model"].mask(named, runs["model"] + "-" + weights.str[:8])
    settings = dict(runs["settings_by_key"])
    folded = runs["fold"] != ""
    for key, within in (
        ("protocol", [runs["suite"], runs["model"]]),
        ("data.digest", [runs["suite"], runs["task"], folded]),
    ):
        several = (values := known(key)).groupby(within).transform("nunique") > 1
        for i in runs.index[several.to_numpy(dtype=bool)]:
            settings[i] = settings[i] | {key: values[i]}
    runs["settings"] = [describe(settings[i]) for i in runs.index]
    for _, group in runs.groupby(["suite", "model", "method", "settings", "task", "start_from"]):
        frame = pd.DataFrame({i: identities[i] for i in group.index}, dtype=object).T
        for i, more in apart(frame, group[PAIR]).items():
            settings[i] = settings[i] | more
    runs["settings"] = [describe(settings[i]) for i in runs.index]
    position = {name: n for n, name in enumerate((*SUITES, *TASKS))}
    keys = runs.reset_index(drop=True).assign(
        suite=list(runs["suite"].map(position)),
        task=list(runs["task"].map(position)),
        method=[(m != reference, m.lower()) for m in runs["method"]],
    )
    by = ["suite", "model", "method", "settings", "task", "start_from", *PAIR, "id"]
    return runs.iloc[keys.sort_values(by).index].drop(columns="settings_by_key")


def _score_rows(runs: pd.DataFrame, scores: list[dict[str, Any]]) -> pd.DataFrame:
    metrics = pd.DataFrame(scores, columns=["id", "metric", "is_headline", "best", "last"])
    facts = runs.drop(columns=["best", "last", "headline", "path", "sha256"]).reset_index(drop=True)
    merged = facts.merge(metrics, on="id", how="left", validate="one_to_many", sort=False)
    first = ["suite", "model", "task", "method", "settings", *PAIR, "start_from"]
    first += ["metric", "is_headline", "best", "last", "best_epoch", "epochs"]
    first += ["collapsed", "collapsed_last"]
    rest = [c for c in merged if c not in (*first, "id", "name")]
    return merged[[*first, *rest, "name", "id"]]
