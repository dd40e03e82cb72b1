"""A sweep on Slurm: plan it, leave out what is done or queued, and submit the rest in few jobs."""

import shlex
import sys
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from craft.bench.run import record
from craft.bench.run.folder import RunFolder
from craft.bench.run.inputs import Inputs, Planner
from craft.bench.run.signals import stopped
from craft.bench.settings.declared import number, optional, read, setting, truth, whole
from craft.bench.settings.resolve import check, donor_line
from craft.bench.sweep import job, snapshot, state
from craft.bench.sweep.job import SweepJob
from craft.bench.sweep.state import PlannedRun, RunState, SweepFolder
from craft.errors import InputError, Interrupted

START = 20.0  # seconds for a run to load its model and data
CHARACTERS = 4.5  # of a token of English
LOOK = 15.0  # seconds between two looks at the queue, where the launcher waits

Compose = Callable[[Sequence[str]], DictConfig]
JobRuns = list[PlannedRun]  # that share a job


@dataclass(frozen=True)
class SlurmSettings:
    """The launcher's section; each field is explained in configs/hydra/launcher/slurm.yaml."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gpus_per_node: Annotated[int, setting(check=whole(0))]
    cpus_per_task: Annotated[int, setting(check=whole(1))]
    mem_gb: Annotated[float, setting(check=number())]
    timeout_min: Annotated[int, setting(check=whole(1))]
    setup: list[str]
    additional: dict[str, Any]
    job_minutes: Annotated[float, setting(check=number())]
    runs_per_job: Annotated[int | None, setting(check=optional(whole(1)))]
    tokens_per_second: Annotated[float, setting(check=number(1))]
    array_parallelism: Annotated[int, setting(check=whole(1))]
    max_array_size: Annotated[int, setting(check=whole(1))]
    max_num_timeout: Annotated[int, setting(check=whole(0))]
    signal_delay_s: Annotated[int, setting(check=whole(1))]
    detach: Annotated[bool, setting(check=truth)]
    ask: Annotated[bool, setting(check=truth)]
    allow_dirty: Annotated[bool, setting(check=truth)]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "SlurmSettings":
        plain = {
            k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in given.items()
        }
        made = read(cls, plain, "hydra.launcher")
        if made.signal_delay_s > 30 * made.timeout_min:
            raise InputError(
                f"hydra.launcher.signal_delay_s {made.signal_delay_s} must be at most half of "
                f"the time limit, {30 * made.timeout_min} s"
            )
        return made


def launch_on_slurm(
    settings: SlurmSettings, job_overrides: Sequence[Sequence[str]], compose: Compose
) -> list[JobReturn]:
    """Submit what is missing of a sweep; returns nothing where it detaches, else the runs' ends.

    InputError where the sources differ from the commit, or squeue or sbatch refuse."""
    sweep, asked = plan(settings, job_overrides, compose)
    jobs = state.queue({*state.job_names(sweep.outputs), sweep.job_name})
    holding = state.holding(sweep.outputs, jobs)
    found = state.states(sweep.outputs, sweep.runs, holding)
    todo = [one.run for one in found if one.state in ("missing", "failed")]
    ahead = {one.run.id for one in found if one.state in ("pending", "running")}
    elsewhere = ahead - set(holding)  # no job that Slurm could let another one wait for
    groups = grouped(settings, [run for run in todo if run.donor not in elsewhere], ahead)
    _show(settings, sweep, found, groups)
    if later := sum(run.donor in elsewhere for run in todo):
        print(f"{later} runs start from one that is at work elsewhere: start again once it is done")
    if groups and settings.ask and not _agreed():
        raise InputError("nothing was submitted")
    sweep.write()
    if groups:
        copy, taken = snapshot.take(sweep.outputs / "snapshots", settings.allow_dirty)
        dirty = " with changes" if taken["dirty"] else ""
        print(f"snapshot of {taken['commit'][:10]}{dirty}: {copy}")
    for donor, group in groups:
        after = None if donor is None else f"afterok:{holding[donor]}"
        for n in range(0, len(group), settings.max_array_size):
            array = group[n : n + settings.max_array_size]
            holding |= submit(settings, sweep, array, copy.resolve(), after)
    print(f"status: craft sweep status sweep={sweep.path}")
    if settings.detach:
        return []
    while state.queue([sweep.job_name]):  # submitit hears of a cancelled job from sacct alone
        if stopped():
            raise Interrupted("the jobs go on; the same command waits for them again")
        time.sleep(LOOK)
    ends = {one.run.id: one for one in state.states(sweep.outputs, sweep.runs, ())}
    return [_returned(ends[id_], sweep) for id_ in asked]


def plan(
    settings: SlurmSettings, job_overrides: Sequence[Sequence[str]], compose: Compose
) -> tuple[SweepFolder, list[str]]:
    """The sweep: its runs with their identity, as each will find it, and the runs that these start
    from; and the ids of those that were asked for, in order."""
    planner, estimates = Planner(), Estimates(settings.tokens_per_second)
    cuda = settings.gpus_per_node > 0
    runs: dict[str, PlannedRun] = {}
    asked: list[str] = []
    outputs: set[Path] = set()

    def planned(inputs: Inputs, overrides: Sequence[str]) -> PlannedRun:
        config = inputs.config
        outputs.add(config.outputs)
        line = [o for o in overrides if o.split("=")[0] != "train.device"]
        line.append(f"train.device={config.train.device}")  # never the other one by accident
        donor = None if inputs.start is None else inputs.start.id
        seconds = round(estimates.seconds(inputs), 1)
        return PlannedRun(tuple(line), inputs.id, inputs.folder.path.name, seconds, donor)

    for overrides in job_overrides:
        cfg = compose(overrides)
        config, donor = check(cfg, cuda=cuda), None
        if config.start_from is not None:
            line = donor_line(cfg, overrides)
            donor = check(compose(line), cuda=cuda)
            run = planned(planner.inputs(donor), line)
            runs.setdefault(run.id, run)  # done or not: the sweep stays the same one
        run = planned(planner.inputs(config, donor), overrides)
        runs[run.id] = run
        asked.append(run.id)
    if len(outputs) != 1:
        raise InputError("outputs must be one folder for all runs of a sweep")
    of = next((o.split("=")[1] for o in job_overrides[0] if o.startswith("experiment=")), "sweep")
    path = outputs.pop() / "sweeps" / f"{of}-{record.digest(sorted(runs))[:8]}"
    before = SweepFolder.read(path).submitted if (path / "plan.json").is_file() else {}
    planned_runs = list(runs.values())
    sweep = SweepFolder(path, path.parents[1], planned_runs, before, settings.gpus_per_node)
    return sweep, asked


class Estimates:
    """How long runs will take: their tokens at the mean speed of their model's finished runs, or at
    a given one."""

    def __init__(self, tokens_per_second: float) -> None:
        self.tokens_per_second = tokens_per_second
        self._tokens: dict[str, float] = {}
        self._speeds: dict[str, float] = {}

    def seconds(self, inputs: Inputs) -> float:
        data, model = inputs.data, inputs.backbone.name
        if data.digest not in self._tokens:
            train = data.splits["train"]
            characters = sum(len(text) for texts in train.texts for text in texts)
            self._tokens[data.digest] = characters / CHARACTERS + 3 * len(train)
        if model not in self._speeds:
            self._speeds[model] = self._speed(inputs.config.outputs, model)
        epochs = inputs.config.train.epochs
        return START + self._tokens[data.digest] * epochs / self._speeds[model]

    def _speed(self, outputs: Path, model: str) -> float:
        finished = [RunFolder(path).done() for path in (outputs / "runs").glob(f"*-{model}-s*")]
        costs = [made.provenance["cost"] for made in finished if made is not None]
        speeds = [s for cost in costs if (s := cost["tokens_per_second"]) > 0]
        return sum(speeds) / len(speeds) if speeds else self.tokens_per_second


def grouped(
    settings: SlurmSettings, todo: Sequence[PlannedRun], ahead: Container[str]
) -> list[tuple[str | None, list[JobRuns]]]:
    """The runs that are to be submitted, in jobs, by the donor that they wait for; donors first.

    `ahead` are the runs that are queued or at work."""
    ids = {run.id for run in todo}
    donors = {run.donor for run in todo}
    groups: dict[tuple[bool, str | None], JobRuns] = {}
    for run in sorted(todo, key=lambda run: run.id not in donors):
        waits = run.donor in ids or run.donor in ahead
        groups.setdefault((run.id in donors, run.donor if waits else None), []).append(run)
    budget = 60 * settings.job_minutes
    return [(donor, pack(g, budget, settings.runs_per_job)) for (_, donor), g in groups.items()]


def pack(runs: Sequence[PlannedRun], seconds: float, most: int | None) -> list[JobRuns]:
    """Fill jobs with runs up to a time budget, and to a number of runs where there is one; a run
    that is longer than the budget has a job of its own."""
    jobs: list[JobRuns] = []
    for run in sorted(runs, key=lambda run: -run.seconds):
        for filled in jobs:
            spent = sum(other.seconds for other in filled)
            if spent + run.seconds <= seconds and (most is None or len(filled) < most):
                filled.append(run)
                break
        else:
            jobs.append([run])
    return jobs


def submit(
    settings: SlurmSettings,
    sweep: SweepFolder,
    jobs: Sequence[JobRuns],
    copy: Path,
    after: str | None,
) -> dict[str, str]:
    """Submit jobs as one array; remembers at once which job holds which runs, and returns the jobs
    by their runs' ids."""
    import cloudpickle
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    cloudpickle.register_pickle_by_value(job)
    lines = [
        f"export PYTHONPATH={shlex.quote(str(copy))}",
        "export PYTHONSAFEPATH=1",  # not the sources in the folder where the sweep was started
        "export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1",  # nodes need no network: craft prepare
        *settings.setup,
    ]
    more = {} if after is None else {"kill-on-invalid-dep": "yes"}
    try:
        executor = submitit.SlurmExecutor(
            sweep.path / "logs", max_num_timeout=settings.max_num_timeout
        )
        executor.update_parameters(
            job_name=sweep.job_name, dependency=after, nodes=1, ntasks_per_node=1, setup=lines,
            partition=settings.partition, account=settings.account, qos=settings.qos,
            constraint=settings.constraint, gpus_per_node=settings.gpus_per_node or None,
            cpus_per_task=settings.cpus_per_task, mem=f"{int(1024 * settings.mem_gb)}MB",
            time=settings.timeout_min, signal_delay_s=settings.signal_delay_s,
            array_parallelism=settings.array_parallelism, stderr_to_stdout=True,
            additional_parameters=settings.additional | more,
        )  # fmt: skip
        made = executor.submit_array([SweepJob([run.overrides for run in runs]) for runs in jobs])
    except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
        said = str(error).strip().splitlines()
        line = next((line for line in said if "sbatch: error" in line), said[-1])
        raise InputError(f"sbatch refused the jobs: {line}") from error
    ids = [one.job_id for one in made]
    sweep.submitted |= {id_: [run.id for run in runs] for id_, runs in zip(ids, jobs, strict=True)}
    sweep.write()
    most = min(len(made), settings.array_parallelism)
    wait = "" if after is None else f" after {after}"
    print(f"job {ids[0].split('_')[0]}: {len(made)} jobs, {most} at a time{wait}")
    return {run.id: id_ for id_, runs in zip(ids, jobs, strict=True) for run in runs}


def _show(
    settings: SlurmSettings,
    sweep: SweepFolder,
    found: Sequence[RunState],
    groups: Sequence[tuple[str | None, list[JobRuns]]],
) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in state.counts(found).items())
    jobs = [runs for _, group in groups for runs in group]
    hours = sum(run.seconds for runs in jobs for run in runs) / 3600
    print(f"{sweep.path}: {len(found)} runs: {counts}")
    print(
        f"to submit: {sum(map(len, jobs))} runs in {len(jobs)} jobs, about {hours:.1f} h in all, "
        f"{settings.timeout_min} min each at most"
    )


def _agreed() -> bool:
    print("submit? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _returned(one: RunState, sweep: SweepFolder) -> JobReturn:
    """A run's end as Hydra's sweepers want it: its score, or an exception that names it."""
    made = RunFolder(one.run.folder(sweep.outputs)).done()
    overrides = one.run.overrides
    if made is None:
        error = RuntimeError(f"{one.run.name}: {one.error or one.state}")
        return JobReturn(overrides=overrides, _return_value=error, status=JobStatus.FAILED)
    return JobReturn(overrides=overrides, _return_value=made.score(), status=JobStatus.COMPLETED)
