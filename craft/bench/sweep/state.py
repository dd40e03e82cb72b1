"""The state of a sweep on a cluster, from its plan, its records, its leases and one look at squeue.

A sweep's folder, outputs/sweeps/<name>/, holds `plan.json` (its runs), `submitted.json` (which job
holds which runs) and `logs/`."""

import shlex
import subprocess
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from craft.bench.run.folder import RunFolder, read_attempts
from craft.bench.run.lease import is_held
from craft.errors import InputError
from craft.files import read_json, write_json

STATES = ("done", "running", "pending", "failed", "diverged", "missing")


@dataclass(frozen=True)
class PlannedRun:
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
class QueuedJob:
    """A job as squeue shows it: its id (12_3 for task 3 of array 12) and state."""

    id: str
    state: str


@dataclass(frozen=True)
class RunState:
    """A run's state; for a failed one the first line of its error, for one that was killed how
    often, and the seconds for which the attempts at it have held a machine."""

    run: PlannedRun
    state: str
    error: str | None
    killed: int
    seconds: float


@dataclass
class SweepFolder:
    """A sweep's folder, read."""

    path: Path
    outputs: Path
    runs: list[PlannedRun]
    submitted: dict[str, list[str]] = field(default_factory=dict)  # job -> ids of its runs
    gpus: int = 0

    @property
    def job_name(self) -> str:
        """What this sweep's jobs are called in the queue, and no other's."""
        return f"craft-{self.path.name}"

    def write(self) -> None:
        plan = {"outputs": str(self.outputs), "gpus": self.gpus}
        write_json(self.path / "plan.json", plan | {"runs": [asdict(run) for run in self.runs]})
        write_json(self.path / "submitted.json", self.submitted)

    @classmethod
    def read(cls, path: Path) -> "SweepFolder":
        if not (path / "plan.json").is_file():
            raise InputError(f"sweep: there is no plan.json in {path}")
        plan = read_json(path / "plan.json")
        runs = [PlannedRun(**{**run, "overrides": tuple(run["overrides"])}) for run in plan["runs"]]
        jobs = path / "submitted.json"
        submitted = read_json(jobs) if jobs.is_file() else {}
        return cls(path, Path(plan["outputs"]), runs, submitted, plan["gpus"])


def newest(outputs: Path) -> Path:
    """The sweep that was started last; InputError where there is none."""
    plans = list((outputs / "sweeps").glob("*/plan.json"))
    if not plans:
        raise InputError(f"sweep: there is none under {outputs / 'sweeps'}")
    return max(plans, key=lambda path: path.stat().st_mtime).parent


def job_names(outputs: Path) -> list[str]:
    """The names under which the sweeps of these outputs are in the queue."""
    return [f"craft-{path.parent.name}" for path in (outputs / "sweeps").glob("*/plan.json")]


def queue(names: Iterable[str]) -> list[QueuedJob]:
    """The jobs of these names that are in the queue: one squeue for all.

    InputError where squeue cannot say, since nothing must be submitted or given up on a guess."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i|%T"]
    try:
        done = subprocess.run(
            [*command, f"--name={','.join(names)}"], capture_output=True, text=True, timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise InputError(f"squeue: {error}") from error
    if done.returncode:
        raise InputError(f"squeue: {done.stderr.strip()}")
    return [QueuedJob(*line.split("|")) for line in done.stdout.splitlines() if line]


def holding(outputs: Path, jobs: Sequence[QueuedJob]) -> dict[str, str]:
    """The ids of the runs that some sweep's live job holds, each with that job's id."""
    live = {job.id for job in jobs}
    return {
        run: job
        for path in (outputs / "sweeps").glob("*/submitted.json")
        for job, runs in read_json(path).items()
        if job in live
        for run in runs
    }


def states(
    outputs: Path, runs: Sequence[PlannedRun], held_by_jobs: Container[str]
) -> list[RunState]:
    """Every run's state. A run that diverged has ended: it would do so again."""
    found = []
    for run in runs:
        folder = RunFolder(run.folder(outputs))
        made = folder.read()
        status = None if made is None else made.status
        tried = read_attempts(folder.attempts)
        if status == "ok":
            state = "done"
        elif is_held(folder.path):
            state = "running"
        elif run.id in held_by_jobs:
            state = "pending"
        else:
            state = {None: "missing", "diverged": "diverged"}.get(status, "failed")
        error = None if made is None or state != "failed" else made.error
        killed = sum(attempt["ended"] == "killed" for attempt in tried)
        seconds = sum(attempt["seconds"] for attempt in tried)
        found.append(RunState(run, state, error, killed, seconds))
    return found


def counts(found: Sequence[RunState]) -> dict[str, int]:
    """How many runs are in each state that there is."""
    counted = Counter(one.state for one in found)
    return {state: counted[state] for state in STATES if counted[state]}


def status(sweep: SweepFolder) -> list[str]:
    """What `make sweep-status` prints of a sweep, after a look at the queue."""
    jobs = queue(job_names(sweep.outputs))
    found = states(sweep.outputs, sweep.runs, holding(sweep.outputs, jobs))
    return lines(sweep, found, [job for job in jobs if job.id in sweep.submitted])


def lines(sweep: SweepFolder, found: Sequence[RunState], jobs: Sequence[QueuedJob]) -> list[str]:
    """A sweep's status, given its runs' states and its jobs in the queue."""
    shown = [f"{sweep.path}: {len(found)} runs"]
    shown += [f"{state:10}{count:6}" for state, count in counts(found).items()]
    for one in found:
        said = None
        if one.state in ("failed", "diverged"):
            said = f"{one.state}: {one.run.name}: {one.error or 'a value is not finite'}"
        elif one.state == "missing" and one.killed:
            said = f"killed {one.killed} times: {one.run.name}"
        if said is not None:
            shown += [said, f"    {command_of(one.run.overrides)}"]
    ahead = sum(one.run.seconds for one in found if one.state in ("running", "pending", "missing"))
    if ahead:
        running = sum(job.state == "RUNNING" for job in jobs)
        at_once = max(1, running)
        shown.append(
            f"about {ahead / at_once / 3600:.1f} h left with {at_once} jobs at a time "
            f"({running} of {len(jobs)} jobs run)"
        )
    if seconds := sum(one.seconds for one in found):
        what = f"{seconds * sweep.gpus:.0f} allocated GPU-" if sweep.gpus else f"{seconds:.0f} "
        shown.append(f"attempts that have ended took {what}seconds")
    return shown


def command_of(overrides: Sequence[str]) -> str:
    """What carries out one run of a sweep by itself."""
    return shlex.join(["craft", "train", *overrides])


def cancel(sweep: SweepFolder) -> list[str]:
    """Cancel this sweep's jobs, and no other; returns their ids."""
    ours = [job.id for job in queue([sweep.job_name])]
    if ours:
        subprocess.run(["scancel", *ours], check=True, capture_output=True, timeout=60)
    return ours
