"""What a Slurm job of a sweep runs: its runs, one after the other, in one process.

submitit unpickles a `Batch` on the node, from the sweep's snapshot of the sources. Whatever takes
time to import is imported only after that: until then a signal would kill the job."""

import contextlib
import gc
import json
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GRACE = 120.0  # seconds for Slurm or submitit to end a job that was told to stop


class Batch:
    """Runs that share a job; `sweep` is the folder of the sweep that they belong to."""

    def __init__(self, sweep: str, runs: Sequence[Sequence[str]]) -> None:
        self.sweep, self.runs = sweep, [list(overrides) for overrides in runs]

    def checkpoint(self) -> Any:
        """submitit asks for what to run when the job is requeued: the same, for runs that are done
        say so and the others have their checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        """Carry out the runs; RuntimeError names those that did not end well, after the others."""
        import entry

        from craft.errors import Interrupted

        entry.listen()
        failed = []
        with Clock(Path(self.sweep) / "jobs"):
            for overrides in self.runs:
                try:
                    failed += self._one(overrides)
                except Interrupted as interruption:
                    print(f"interrupted: {interruption}", flush=True)
                    stand_by()
                    raise entry.Stopped(str(interruption)) from interruption
                gc.collect()
        if failed:
            count = f"{len(failed)} of {len(self.runs)}"
            raise RuntimeError(f"{count} runs failed: {'; '.join(failed)}")

    def _one(self, overrides: list[str]) -> list[str]:
        """One run; what it failed with, or nothing."""
        import entry
        from hydra import compose, initialize_config_dir
        from omegaconf import OmegaConf
        from train import carry_out

        from craft.bench.run.provenance import without_secrets
        from craft.errors import InputError, Interrupted, first_line

        if entry.stopped():
            raise Interrupted("stopped before the next run began")
        command = shlex.join(["python", "scripts/train.py", *overrides])
        try:
            with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                cfg = compose("train", overrides)
                plain = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
                carry_out(plain, overrides, command)  # type: ignore[arg-type]
        except InputError as error:
            print(without_secrets(f"error in {command}: {error}"), flush=True)
            return [f"{command}: {error}"]
        except Exception as error:
            print(without_secrets(traceback.format_exc()), file=sys.stderr, flush=True)
            return [f"{getattr(error, '__notes__', [command])[-1]}: {first_line(error)}"]
        return []


def stand_by() -> None:
    """After the checkpoint: on submitit's signal requeue and exit. After another wait for the end,
    for a job that leaves by itself while it is preempted counts as failed and is not requeued."""
    import entry

    end = time.monotonic() + GRACE
    while time.monotonic() < end:
        entry.hand_over()
        if signal.SIGTERM not in entry.received():
            return
        time.sleep(0.2)


class Clock:
    """Notes every few seconds for how long this job has held its machine."""

    def __init__(self, folder: Path) -> None:
        from craft.bench.run.provenance import holder

        who = holder()
        self.path = folder / f"{who.job}.{who.restart}.json"
        self._began, self._end = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> "Clock":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._end.set()
        self._thread.join()
        self._note()

    def _keep(self) -> None:
        self._note()
        while not self._end.wait(5.0):
            self._note()

    def _note(self) -> None:
        seconds = round(time.monotonic() - self._began, 1)
        with contextlib.suppress(OSError):  # a full disk costs a number, not the job
            self.path.write_text(json.dumps({"seconds": seconds}))
