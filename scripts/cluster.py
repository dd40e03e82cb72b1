"""A sweep on Slurm: plan it, leave out what is done or queued, and submit the rest in few jobs."""

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from batch import Batch
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from craft.bench.glue.splits import data_of
from craft.bench.model.locate import Backbone, locate
from craft.bench.run import record
from craft.bench.run.folder import RunFolder
from craft.bench.run.identity import identity
from craft.bench.settings.resolve import check, donor_line
from craft.bench.settings.sections import RunConfig
from craft.bench.sweep import snapshot, state
from craft.bench.sweep.state import Found, Planned, Sweep
from craft.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
START = 20.0  # seconds for a run to load its model and data
CHARACTERS = 4.5  # of a token of English


@dataclass(frozen=True)
class Settings:
    """The launcher's section; each field is explained in configs/hydra/launcher/slurm.yaml."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gpus_per_node: int
    cpus_per_task: int
    mem_gb: float
    timeout_min: int
    setup: list[str]
    additional: dict[str, Any]
    job_minutes: float
    runs_per_job: int | None
    tokens_per_second: float
    array_parallelism: int
    max_array_size: int
    max_jobs: int
    max_num_timeout: int
    signal_delay_s: int
    detach: bool
    ask: bool
    allow_dirty: bool
    poll_seconds: float

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Settings":
        plain = {
            k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in given.items()
        }
        if odd := set(plain) ^ {f.name for f in fields(cls)}:
            raise InputError(f"hydra.launcher: keys {sorted(odd)} are unknown or missing")
        for name in ("cpus_per_task", "timeout_min", "array_parallelism", "max_array_size",
                     "max_jobs"):  # fmt: skip
            if not isinstance(plain[name], int) or plain[name] < 1:
                raise InputError(
                    f"hydra.launcher.{name} must be a whole number of at least 1, "
                    f"not {plain[name]!r}"
                )
        if not 0 < plain["signal_delay_s"] <= 30 * plain["timeout_min"]:
            raise InputError(
                f"hydra.launcher.signal_delay_s {plain['signal_delay_s']} must be at most half of "
                f"the time limit, {30 * plain['timeout_min']} s"
            )
        return cls(**plain)


def launch_on_slurm(
    settings: Settings,
    job_overrides: Sequence[Sequence[str]],
    compose: Callable[[Sequence[str]], DictConfig],
) -> list[JobReturn]:
    """Submit what is missing of a sweep; returns nothing where it detaches, else the jobs' ends.

    InputError where the sources differ from the commit, or squeue or sbatch refuse."""
    planned = plan(settings, job_overrides, compose)
    outputs = planned.outputs
    names = {*state.job_names(outputs), planned.job_name}
    jobs = state.queue(names)
    found = state.states(outputs, planned.runs, state.queued(outputs, jobs))
    todo = [one.run for one in found if one.state in ("missing", "failed")]
    ahead = {one.run.id for one in found if one.state in ("pending", "running")}
    stages = stage(settings, todo, ahead)
    _show(settings, planned, found, stages)
    if todo and settings.ask and not _agreed():
        raise InputError("nothing was submitted")
    planned.write()
    if todo:
        copy, taken = snapshot.take(ROOT, outputs / "snapshots", settings.allow_dirty)
        dirty = " with changes" if taken["dirty"] else ""
        print(f"snapshot of {taken['commit'][:10]}{dirty}: {copy}")
        live = {job.id for job in jobs}
        left = submit(settings, planned, stages, copy.resolve(), live)
        while left and not settings.detach:
            time.sleep(settings.poll_seconds)
            live = {job.id for job in state.queue(names)}
            before, left = left, submit(settings, planned, left, copy.resolve(), live)
            if left == before and not live & set(planned.submitted):
                break  # they wait for what is not in the queue
        if left:
            runs = sum(len(job) for _, jobs in left for job in jobs)
            print(f"{runs} runs wait for room (max_jobs) or for a run elsewhere: start again later")
    print(f"status: python scripts/sweep.py status sweep={planned.folder}")
    if settings.detach:
        return []
    while state.queue([planned.job_name]):
        time.sleep(settings.poll_seconds)
    ends = state.states(outputs, planned.runs, set())
    return [_returned(one, outputs) for one in ends]


def plan(
    settings: Settings,
    job_overrides: Sequence[Sequence[str]],
    compose: Callable[[Sequence[str]], DictConfig],
) -> Sweep:
    """Every run of the sweep with its identity, as the run itself will find it, and the runs that
    these start from."""
    place = _Identities(settings)
    runs: dict[str, Planned] = {}
    for overrides in job_overrides:
        cfg = compose(overrides)
        config = check(cfg, cuda=settings.gpus_per_node > 0)
        donor = None
        if config.start_from is not None:
            line = donor_line(cfg, overrides)
            donor_config = check(compose(line), cuda=settings.gpus_per_node > 0)
            from_ = place.planned(donor_config, line, None)
            donor = from_.id
            runs.setdefault(from_.id, from_)  # done or not: the sweep stays the same one
        run = place.planned(config, overrides, donor)
        runs[run.id] = run
    outputs = place.outputs()
    of = next((o.split("=")[1] for o in job_overrides[0] if o.startswith("experiment=")), "sweep")
    label = f"{of}-{record.digest(sorted(runs))[:8]}"
    folder = outputs / "sweeps" / label
    before = Sweep.read(folder).submitted if (folder / "plan.json").is_file() else {}
    return Sweep(folder, outputs, list(runs.values()), before, settings.gpus_per_node)


class _Identities:
    """Finds runs' identities, with every model and data set read once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._backbones: dict[str, Backbone] = {}
        self._data: dict[str, tuple[str, float]] = {}
        self._outputs: set[Path] = set()
        self._rates: dict[str, float] = {}

    def outputs(self) -> Path:
        if len(self._outputs) != 1:
            raise InputError("outputs must be one folder for all runs of a sweep")
        return next(iter(self._outputs))

    def planned(self, config: RunConfig, overrides: Sequence[str], donor: str | None) -> Planned:
        self._outputs.add(config.outputs)
        section = str(config.model)
        if section not in self._backbones:
            self._backbones[section] = locate(config.model)
        key = f"{config.task.name} {config.data} {config.selection} {config.fold}"
        if key not in self._data:
            data = data_of(config)
            train = data.splits["train"]
            size = sum(len(text) for texts in train.texts for text in texts) / CHARACTERS
            self._data[key] = (data.digest, size + 3 * len(train))
        digest, tokens = self._data[key]
        backbone = self._backbones[section]
        kept = identity(config, backbone.digest, digest, backbone.tokenizer)
        if donor is not None:
            kept["start_from.id"] = donor
        run_id = record.digest(kept)
        device = [o for o in overrides if o.split("=")[0] != "train.device"]
        line = (*device, f"train.device={config.train.device}")  # never the other one by accident
        seconds = START + tokens * config.train.epochs / self._rate(config, backbone.name)
        folder = RunFolder.of(config, run_id, backbone.name)
        return Planned(line, run_id, folder.path.name, round(seconds, 1), donor)

    def _rate(self, config: RunConfig, name: str) -> float:
        """Tokens a second: the mean of the model's finished runs, or the setting."""
        if name not in self._rates:
            found = []
            for path in (config.outputs / "runs").glob(f"*-{name}-s*/record.json"):
                made = RunFolder(path.parent).done()
                if made is not None:
                    found.append(made["provenance"]["cost"]["tokens_per_second"])
            rates = [rate for rate in found if rate > 0] or [self.settings.tokens_per_second]
            self._rates[name] = sum(rates) / len(rates)
        return self._rates[name]


Stage = tuple[str | None, list[list[Planned]]]  # the run that its jobs wait for, and the jobs


def stage(settings: Settings, todo: Sequence[Planned], ahead: set[str]) -> list[Stage]:
    """Pack the runs that are to be submitted into jobs: first those that others start from, then
    the rest, then what waits for a donor, by donor. `ahead` are the runs that are in the queue."""
    ids = {run.id for run in todo}
    donors = {run.donor for run in todo if run.donor is not None}

    def packed(runs: Iterable[Planned]) -> list[list[Planned]]:
        return state.pack(list(runs), 60 * settings.job_minutes, settings.runs_per_job)

    stages: list[Stage] = [(None, packed(run for run in todo if run.id in donors))]
    waits = donors & (ids | ahead)
    rest = [run for run in todo if run.id not in donors and run.donor not in waits]
    stages.append((None, packed(rest)))
    for donor in sorted(waits):
        stages.append((donor, packed(run for run in todo if run.donor == donor)))
    return [(donor, jobs) for donor, jobs in stages if jobs]


def submit(
    settings: Settings, planned: Sweep, stages: Sequence[Stage], copy: Path, live: set[str]
) -> list[Stage]:
    """Submit as many jobs as there is room for beside the live ones, in arrays; returns the stages
    that are left."""
    left: list[Stage] = []
    live, room = set(live), settings.max_jobs - len(live)
    free = [jobs for donor, jobs in stages if donor is None]
    arrays = sum(-(-len(jobs) // settings.max_array_size) for jobs in free)
    share = max(1, settings.array_parallelism // max(1, arrays))
    for donor, jobs in stages:
        jobs = list(jobs)
        dependency = None if donor is None else _dependency(planned, donor, live)
        while jobs and room > 0 and (donor is None or dependency is not None):
            size = min(len(jobs), settings.max_array_size, room)
            array, jobs = jobs[:size], jobs[size:]
            live |= _submit_array(settings, planned, array, copy, share, dependency)
            room -= size
        if jobs:
            left.append((donor, jobs))
    return left


def _dependency(planned: Sweep, donor: str, live: set[str]) -> str | None:
    """The live job that holds a donor, of this sweep or of another; None where none does yet."""
    for path in planned.folder.parent.glob("*/plan.json"):
        other = planned if path.parent == planned.folder else Sweep.read(path.parent)
        holding = [job for job, runs in other.submitted.items() if donor in runs and job in live]
        if holding:
            return f"afterok:{holding[-1]}"
    return None


def _submit_array(
    settings: Settings,
    planned: Sweep,
    jobs: Sequence[Sequence[Planned]],
    copy: Path,
    parallel: int,
    dependency: str | None,
) -> set[str]:
    """One array of jobs, or one job; remembers at once which job holds which runs, and returns the
    jobs' ids."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    more = dict(settings.additional)
    if dependency is not None:
        more["kill-on-invalid-dep"] = "yes"
    asked = {
        "partition": settings.partition, "account": settings.account, "qos": settings.qos,
        "constraint": settings.constraint, "gpus_per_node": settings.gpus_per_node or None,
        "dependency": dependency,
    }  # fmt: skip
    path = ":".join([str(copy), str(copy / "scripts")])
    lines = [
        f"export PYTHONPATH={shlex.quote(path)}",
        "export PYTHONSAFEPATH=1",  # not the sources in the folder where the sweep was started
        "export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1",  # nodes need no network: prepare.py
        *settings.setup,
    ]
    try:
        executor = submitit.SlurmExecutor(
            planned.folder / "logs", max_num_timeout=settings.max_num_timeout
        )
        executor.update_parameters(
            job_name=planned.job_name, time=settings.timeout_min, nodes=1, ntasks_per_node=1,
            cpus_per_task=settings.cpus_per_task, mem=f"{int(1024 * settings.mem_gb)}MB",
            signal_delay_s=settings.signal_delay_s, array_parallelism=parallel, setup=lines,
            additional_parameters=more, stderr_to_stdout=True,
            **{key: value for key, value in asked.items() if value is not None},
        )  # fmt: skip
        batches = [Batch(str(planned.folder.resolve()), [r.overrides for r in job]) for job in jobs]
        if len(batches) == 1:
            made = [executor.submit(batches[0])]
        else:
            with executor.batch():
                made = [executor.submit(batch) for batch in batches]
    except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
        said = str(error).strip().splitlines()
        line = next((line for line in said if "sbatch: error" in line), said[-1])
        raise InputError(f"sbatch refused the jobs: {line}") from error
    for job, runs in zip(made, jobs, strict=True):
        planned.submitted[job.job_id] = [run.id for run in runs]
    planned.write()
    after = f" after {dependency}" if dependency else ""
    first = made[0].job_id.split("_")[0]
    print(f"job {first}: {len(made)} x {parallel} at a time{after}")
    return {job.job_id for job in made}


def _show(
    settings: Settings, planned: Sweep, found: Sequence[Found], stages: Sequence[Stage]
) -> None:
    counts = ", ".join(f"{n} {state}" for state, n in state.summary(found).items() if n)
    jobs = [job for _, jobs in stages for job in jobs]
    hours = sum(run.seconds for job in jobs for run in job) / 3600
    print(f"{planned.folder}: {len(found)} runs: {counts}")
    print(
        f"to submit: {sum(map(len, jobs))} runs in {len(jobs)} jobs, about {hours:.1f} h in all, "
        f"{settings.array_parallelism} jobs at a time, {settings.timeout_min} min each at most"
    )


def _agreed() -> bool:
    print("submit? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _returned(one: Found, outputs: Path) -> JobReturn:
    """A run's end as Hydra's sweepers want it: its score, or an exception that names it."""
    made = RunFolder(one.run.folder(outputs)).read()
    if one.state == "done" and made is not None:
        score = made["result"]["score"]
        value = score["best"][score["headline"]]
        return JobReturn(
            overrides=one.run.overrides, _return_value=value, status=JobStatus.COMPLETED
        )
    error = RuntimeError(f"{one.run.name}: {one.error or one.state}")
    return JobReturn(overrides=one.run.overrides, _return_value=error, status=JobStatus.FAILED)
