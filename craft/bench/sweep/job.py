"""What a Slurm job of a sweep does: its runs, one after the other, in one process.

`slurm.py` pickles a `SweepJob` by value, so that the node has it without importing anything of this
package: until then a signal would end the job. All that takes time to import comes after that."""

import gc
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

GRACE = 120.0  # seconds for Slurm or submitit to end a job that was told to stop


class SweepJob:
    """The runs that share a job, by what each is composed with."""

    def __init__(self, runs: Sequence[Sequence[str]]) -> None:
        self.runs = [list(overrides) for overrides in runs]

    def checkpoint(self) -> Any:
        """submitit asks for what to run when the job is requeued: the same, for runs that are done
        say so and the others have their checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        """Carry out the runs; RuntimeError names those that did not end well, after the others."""
        from craft.bench.run import signals
        from craft.errors import Interrupted

        signals.listen()
        failed = []
        for overrides in self.runs:
            try:
                failed += carry_out_one(overrides)
            except Interrupted as interruption:
                print(f"interrupted: {interruption}", flush=True)
                stand_by()
                raise signals.Stopped(str(interruption)) from interruption
            gc.collect()
        if failed:
            count = f"{len(failed)} of {len(self.runs)}"
            raise RuntimeError(f"{count} runs failed: {'; '.join(failed)}")


def carry_out_one(overrides: list[str]) -> list[str]:
    """One run; what it failed with, or nothing."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from craft.bench.run.provenance import without_secrets
    from craft.bench.run.run import carry_out
    from craft.bench.run.signals import stopped
    from craft.bench.settings.places import CONFIGS
    from craft.bench.sweep.state import command_of
    from craft.errors import InputError, Interrupted, first_line

    if stopped():
        raise Interrupted("stopped before the next run began")
    command = command_of(overrides)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = compose("train", overrides)
            plain = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
            carry_out(plain, overrides, command, stopped)  # type: ignore[arg-type]
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
    from craft.bench.run.signals import hand_over, received

    end = time.monotonic() + GRACE
    while time.monotonic() < end:
        hand_over()
        if signal.SIGTERM not in received():
            return
        time.sleep(0.2)
