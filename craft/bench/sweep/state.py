"""The state of a sweep on a cluster, from its plan, its records, its leases and one look at squeue.

A sweep's folder, outputs/sweeps/<name>/, holds `plan.json` (its runs), `submitted.json` (which job
holds which runs), `jobs/` (how long each job has held its machine) and `logs/`."""

import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from craft.bench.run.folder import RunFolder, read_attempts
from craft.bench.run.lease import is_held
from craft.errors import InputError
from craft.files import read_json, write_json

STATES = ("done", "running", "pending", "failed", "diverged", "missing")


@dataclass(frozen=True)
class Planned:
    """One run of a sweep: its command line, its id and folder's name, an estimate of its seconds,
    and the id of the run that it starts from."""

    overrides: tuple[str, ...]
    id: str
    name: str
    seconds: float
    donor: str | None = None

    def folder(self, outputs: Path) -> Path:
        """Where the run lies, also under the name that its model or method had before."""
        found = sorted((outputs / "runs").glob(f"*-{self.id[:10]}"))
        return found[0] if found else outputs / "runs" / self.name


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it: its id (12_3 for task 3 of array 12), state, and seconds left."""

    id: str
    state: str
    left: float | None


@dataclass(frozen=True)
class Found:
    """A run's state; for a failed one the first line of its error, for one that was killed how
    often."""

    run: Planned
    state: str
    error: str | None = None
    killed: int = 0


@dataclass
class Sweep:
    """A sweep's folder, read."""

    folder: Path
    outputs: Path
    runs: list[Planned]
    submitted: dict[str, list[str]] = field(default_factory=dict)  # job -> ids of its runs
    gpus: int = 0

    @property
    def job_name(self) -> str:
        """What this sweep's jobs are called in the queue, and no other's."""
        return f"craft-{self.folder.name}"

    def write(self) -> None:
        plan = {"outputs": str(self.outputs), "gpus": self.gpus}
        write_json(self.folder / "plan.json", plan | {"runs": [asdict(run) for run in self.runs]})
        write_json(self.folder / "submitted.json", self.submitted)

    @classmethod
    def read(cls, folder: Path) -> "Sweep":
        if not (folder / "plan.json").is_file():
            raise InputError(f"sweep: there is no plan.json in {folder}")
        plan = read_json(folder / "plan.json")
        runs = [Planned(**{**run, "overrides": tuple(run["overrides"])}) for run in plan["runs"]]
        path = folder / "submitted.json"
        submitted = read_json(path) if path.is_file() else {}
        return cls(folder, Path(plan["outputs"]), runs, submitted, plan["gpus"])


def newest(outputs: Path) -> Path:
    """The sweep that was started last; InputError where there is none."""
    plans = list((outputs / "sweeps").glob("*/plan.json"))
    if not plans:
        raise InputError(f"sweep: there is none under {outputs / 'sweeps'}")
    return max(plans, key=lambda path: path.stat().st_mtime).parent


def queue(names: Iterable[str]) -> list[Job]:
    """The jobs of these names that are in the queue: one squeue for all.

    InputError where squeue cannot say, since nothing must be submitted or given up on a guess."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i|%T|%L"]
    try:
        done = subprocess.run(
            [*command, f"--name={','.join(names)}"], capture_output=True, text=True, timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise InputError(f"squeue: {error}") from error
    if done.returncode:
        raise InputError(f"squeue: {done.stderr.strip()}")
    rows = [line.split("|") for line in done.stdout.splitlines() if line]
    return [Job(job, state, _seconds(left)) for job, state, left in rows]


def _seconds(text: str) -> float | None:
    """Slurm's [days-][hours:]minutes:seconds; None where it gives none (UNLIMITED, INVALID)."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts) or not (days == "" or days.isdigit()):
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return float(86400 * int(days or 0) + seconds)


def queued(outputs: Path, jobs: Sequence[Job]) -> set[str]:
    """The ids of the runs that some sweep's live job holds."""
    live, held = {job.id for job in jobs}, set()
    for path in (outputs / "sweeps").glob("*/submitted.json"):
        for job, runs in read_json(path).items():
            if job in live:
                held |= set(runs)
    return held


def job_names(outputs: Path) -> list[str]:
    """The names under which the sweeps of these outputs are in the queue."""
    return [f"craft-{path.parent.name}" for path in (outputs / "sweeps").glob("*/plan.json")]


def states(outputs: Path, runs: Sequence[Planned], held_by_jobs: set[str]) -> list[Found]:
    """Every run's state. A run that diverged has ended: it would do so again."""
    found = []
    for run in runs:
        folder = RunFolder(run.folder(outputs))
        made = folder.read()
        status = None if made is None else made["status"]
        tried = read_attempts(folder.attempts) if status is None else []
        killed = sum(attempt["ended"] == "killed" for attempt in tried)
        if status == "ok":
            state = "done"
        elif is_held(folder.path):
            state = "running"
        elif run.id in held_by_jobs:
            state = "pending"
        else:
            state = {None: "missing", "diverged": "diverged"}.get(status, "failed")
        error = None if made is None or state != "failed" else made["error"]
        found.append(Found(run, state, error, killed))
    return found


def efficiency(sweep: Sweep) -> tuple[float, float]:
    """Useful seconds (training, evaluation and attaching of the finished runs that this sweep has
    submitted) and the seconds for which its jobs have held a machine."""
    useful = 0.0
    ours = {run for runs in sweep.submitted.values() for run in runs}
    for run in sweep.runs:
        made = RunFolder(run.folder(sweep.outputs)).read() if run.id in ours else None
        if made is not None and made["status"] == "ok":
            cost = made["provenance"]["cost"]
            useful += sum(cost[f"{what}_seconds"] for what in ("attach", "train", "eval"))
    allocated = 0.0
    for path in (sweep.folder / "jobs").glob("*.json"):
        allocated += read_json(path)["seconds"]
    return useful, allocated


def lines(sweep: Sweep, found: Sequence[Found], jobs: Sequence[Job]) -> list[str]:
    """What `make sweep-status` prints."""
    counts = {state: sum(run.state == state for run in found) for state in STATES}
    shown = [f"{sweep.folder}: {len(found)} runs"]
    shown += [f"{state:10}{count:6}" for state, count in counts.items() if count]
    for one in found:
        if one.state in ("failed", "diverged"):
            shown.append(f"{one.state}: {one.run.name}: {one.error or 'a value is not finite'}")
            shown.append(f"    {command_of(one.run)}")
        if one.state == "missing" and one.killed:
            shown.append(f"killed {one.killed} times: {one.run.name}")
            shown.append(f"    {command_of(one.run)}")
    running = [job for job in jobs if job.state == "RUNNING"]
    ahead = sum(one.run.seconds for one in found if one.state in ("running", "pending", "missing"))
    if ahead:
        at_once = max(1, len(running))
        shown.append(
            f"about {ahead / at_once / 3600:.1f} h left with {at_once} jobs at a time "
            f"({len(running)} of {len(jobs)} jobs run)"
        )
    useful, allocated = efficiency(sweep)
    what = "GPU-seconds" if sweep.gpus else "seconds"
    if allocated:
        factor = max(1, sweep.gpus)
        shown.append(
            f"useful {useful * factor:.0f} of {allocated * factor:.0f} allocated {what} "
            f"({100 * useful / allocated:.0f} %)"
        )
    return shown


def command_of(run: Planned) -> str:
    return shlex.join(["python", "scripts/train.py", *run.overrides])


def pack(runs: Sequence[Planned], seconds: float, most: int | None) -> list[list[Planned]]:
    """Fill jobs with runs up to a time budget, and to a number of runs where there is one; a run
    that is longer than the budget has a job of its own."""
    jobs: list[list[Planned]] = []
    filled: list[float] = []
    for run in sorted(runs, key=lambda run: -run.seconds):
        fits = (
            n
            for n, spent in enumerate(filled)
            if spent + run.seconds <= seconds and (most is None or len(jobs[n]) < most)
        )
        chosen = next(fits, None)
        if chosen is None:
            jobs.append([run])
            filled.append(run.seconds)
        else:
            jobs[chosen].append(run)
            filled[chosen] += run.seconds
    return jobs


def cancel(sweep: Sweep) -> list[str]:
    """Cancel this sweep's jobs, and no other; returns their ids."""
    ours = [job.id for job in queue([sweep.job_name])]
    if ours:
        subprocess.run(["scancel", *ours], check=True, capture_output=True, timeout=60)
    return ours


def summary(found: Sequence[Found]) -> Mapping[str, int]:
    return {state: sum(one.state == state for one in found) for state in STATES}
