"""Work off the study: every run of configs/study.yaml that the results lack, in its order.

python scripts/study_runs.py glue_dir=FOLDER encoders=FOLDER [results=results/study]
    [outputs=outputs/study] [plan=configs/study.yaml] [workers=2] [last=STAGE] [dry=true]
    [allow_dirty=true]

Runs go one a worker, each on one thread at the lowest priority. What has finished is promoted at
once. Ctrl-C or SIGTERM stops after each run's current step; the same command goes on.
`scripts/study.py` calls it in a clone of the frozen commit."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from craft.bench.cli.parser import options
from craft.bench.cli.process import start
from craft.bench.run.signals import listen, stopped
from craft.errors import InputError, Interrupted

ROOT = Path(__file__).resolve().parents[1]
TRIES = 2  # of a run that fails, not counting interruptions


@dataclass
class Work:
    """What is known of the study's runs: scores by run, seconds of finished ones, and failures."""

    results: Path
    outputs: Path
    allow_dirty: bool = False
    scores: dict[Any, float] = field(default_factory=dict)
    seconds: dict[Any, float] = field(default_factory=dict)
    failures: dict[Any, int] = field(default_factory=dict)

    def look(self) -> None:
        """Promote what has finished since, and read all that is promoted."""
        from craft.bench.report.study.plan import run_of, score_of
        from craft.bench.run.finished.promote import promote
        from craft.bench.run.record import read_all

        runs, known = self.outputs / "runs", {}
        for path, made in read_all(self.results):
            known[made.id] = path
        for _, made in read_all(runs):
            run = run_of(made)
            if run is None or made.status == "failed" or made.id in known:
                continue
            place = self.results / ("search" if run.selection == "train_holdout" else "")
            name = made.provenance["name"]
            promote(runs, place, [name], allow_dirty=self.allow_dirty, diverged=True)
        for _, made in read_all(self.results):
            run = run_of(made)
            if run is not None:
                self.scores[run] = score_of(made)
                self.seconds[run] = made.provenance["seconds"]

    def hours_left(self, pending: Iterable[Any], workers: int) -> float | None:
        """By the mean of the finished runs of the same encoder and task; None before there is one
        of each."""
        total = 0.0
        for run in pending:
            alike = [
                s
                for other, s in self.seconds.items()
                if (other.encoder, other.task) == (run.encoder, run.task)
            ]
            if not alike:
                return None
            total += sum(alike) / len(alike)
        return total / workers / 3600


def main() -> None:
    from craft.bench.report.study.plan import Plan

    given = options(
        sys.argv[1:], glue_dir=None, encoders=None, results=str(ROOT / "results" / "study"),
        outputs=str(ROOT / "outputs" / "study"), plan=str(ROOT / "configs" / "study.yaml"),
        workers="2", last=None, dry="false", allow_dirty="false",
    )  # fmt: skip
    plan = Plan.read(Path(str(given["plan"])))
    for key in ("glue_dir", "encoders"):
        if given[key] is None or not Path(given[key]).is_dir():
            raise InputError(f"{key}={given[key]} is not a folder")
    for encoder in plan.plain["encoders"]:
        if not (Path(str(given["encoders"])) / encoder / "config.json").is_file():
            raise InputError(f"encoders: there is no {encoder}/config.json in {given['encoders']}")
    workers = str(given["workers"])
    if not workers.isdecimal() or int(workers) < 1:
        raise InputError(f"workers must be a whole number of at least 1, not {workers!r}")
    names = [stage.name for stage in plan.stages]
    if given["last"] is not None and given["last"] not in names:
        raise InputError(f"last {given['last']!r} is not one of {', '.join(names)}")
    places = (Path(str(given[key])).resolve() for key in ("results", "outputs"))
    work = Work(*places, allow_dirty=given["allow_dirty"] == "true")
    work.look()
    for stage in plan.stages:
        done, every = plan.total(work.scores, stage)
        print(f"{stage.name}: {done} of {every} runs are done", flush=True)
    places = [f"data.dir={Path(str(given['glue_dir'])).resolve()}", f"outputs={work.outputs}"]

    def command(run: Any) -> list[str]:
        folder = Path(str(given["encoders"])).resolve() / run.encoder
        return [*plan.overrides(run), f"model.path={folder}", *places]

    if given["dry"] == "true":
        for run in plan.pending(work.scores, given["last"]):
            print(shlex.join(["python", "scripts/train.py", *command(run)]))
        return
    listen()
    os.nice(19)
    work_off(plan, work, command, int(workers), given["last"])


def work_off(plan: Any, work: Work, command: Any, workers: int, last: str | None) -> None:
    """Keep so many runs going until none is left; Interrupted where a signal asks for a stop."""
    going: dict[Any, tuple[subprocess.Popen, float]] = {}
    while True:
        pending = [
            run for run in plan.pending(work.scores, last) if work.failures.get(run, 0) < TRIES
        ]
        for run in pending:
            if len(going) < workers and run not in going and not stopped():
                going[run] = (_start(command(run), work.outputs), time.monotonic())
        if not going:
            break
        if stopped():
            for process, _ in going.values():
                process.terminate()
            for process, _ in going.values():
                process.wait()
            work.look()
            raise Interrupted("stopped; start again to go on")
        time.sleep(0.5)
        for run, (process, began) in [*going.items()]:
            if process.poll() is None:
                continue
            del going[run]
            work.look()
            took = f"{(time.monotonic() - began) / 60:.1f} min"
            if run in work.scores:
                left = work.hours_left(
                    [r for r in plan.pending(work.scores, last) if r not in going], workers
                )
                more = "" if left is None else f"; about {left:.1f} h for what is known to be left"
                print(f"{run.label}: {100 * work.scores[run]:.2f}, {took}{more}", flush=True)
            else:
                work.failures[run] = work.failures.get(run, 0) + 1
                log = work.outputs / "study.log"
                print(f"{run.label}: failed with code {process.returncode}; {log}", flush=True)
    if failed := [run.label for run, tries in work.failures.items() if run not in work.scores]:
        raise InputError(f"{len(failed)} runs failed {TRIES} times: {', '.join(failed)}")
    print("nothing is left to run")


def _start(overrides: list[str], outputs: Path) -> subprocess.Popen:
    """A run in a process of its own; what it prints goes to study.log."""
    outputs.mkdir(parents=True, exist_ok=True)
    with (outputs / "study.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "train.py"), *overrides],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )


if __name__ == "__main__":
    start(main)
