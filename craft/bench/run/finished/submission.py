"""Predictions of GLUE's test sets from saved runs, as one submission to the leaderboard."""

from collections.abc import Mapping
from dataclasses import dataclass

from craft.bench.glue import leaderboard, sources
from craft.bench.glue.leaderboard import File
from craft.bench.glue.metrics import predictions_of
from craft.bench.glue.sources import Split
from craft.bench.model.locate import locate
from craft.bench.run.finished.predict import logits_of
from craft.bench.settings.sections import RunConfig
from craft.errors import InputError


@dataclass(frozen=True)
class Run:
    """A finished run to predict with: its name, its config with `adapter` set, and the digest of
    the weights that it was trained on."""

    name: str
    config: RunConfig
    weights: str


@dataclass(frozen=True)
class Submission:
    """The zip, the rows of each file, and what stands between it and the leaderboard."""

    archive: bytes
    rows: dict[str, int]
    findings: list[str]


def by_task(runs: list[Run]) -> dict[str, Run]:
    """The runs by their tasks; InputError names a task that has several."""
    found: dict[str, Run] = {}
    for run in runs:
        task = run.config.task.name
        if task in found:
            raise InputError(
                f"{task} has several runs, {found[task].name} and {run.name}: name one of them"
            )
        found[task] = run
    return found


def make(runs: Mapping[str, Run]) -> Submission:
    """Predict every file that a run and its test set are there for.

    InputError where a run's backbone or adapter is not there or not the run's own."""
    texts: dict[str, str] = {}
    missing: dict[str, str] = {}
    for file in leaderboard.FILES:
        if file.task not in runs:
            missing[file.name] = f"no run of {file.task} is named"
    for run in runs.values():
        splits: dict[File, Split] = {}
        for file in (f for f in leaderboard.FILES if f.task == run.config.task.name):
            try:
                splits[file] = _test_set(run.config, file)
            except InputError as error:
                missing[file.name] = str(error)
        if splits:
            texts |= _predicted(run, splits)
    archive = leaderboard.packed(texts)
    found = [f"{name}.tsv is missing: {missing[name]}" for name in missing]
    stated = {f"{name}.tsv is missing" for name in missing}
    found += [finding for finding in leaderboard.findings(archive) if finding not in stated]
    return Submission(archive, {n: t.count("\n") - 1 for n, t in texts.items()}, found)


def _test_set(config: RunConfig, file: File) -> Split:
    task, split = config.task, file.split
    if split == leaderboard.DIAGNOSTICS:
        task, split = leaderboard.diagnostics(task), "test"
    return sources.load(task, config.data, (split,)).splits[split]


def _predicted(run: Run, splits: Mapping[File, Split]) -> dict[str, str]:
    """The text of each file, by its name."""
    backbone = locate(run.config.model)
    if backbone.digest != run.weights:
        raise InputError(f"{run.name} was trained on other weights than those in {backbone.folder}")
    logits = logits_of(run.config, backbone, {f.name: split for f, split in splits.items()})
    return {
        file.name: leaderboard.content(
            file, split.idx, predictions_of(run.config.task, logits[file.name])
        )
        for file, split in splits.items()
    }
