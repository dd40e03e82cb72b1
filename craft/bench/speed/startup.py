"""From command to first training step, in processes of their own."""

import itertools
import os
import subprocess
import sys
import time

from craft.bench.speed.measure import Findings, Times, figure, interleaved, ratio
from craft.bench.speed.subjects import Setup

# the command line of scripts/train.py, left at the end of the first step
FIRST_STEP = """
import os, runpy, sys
import craft.bench.training.loop
update = craft.bench.training.loop._update
def last(*arguments):
    update(*arguments)
    os._exit(0)
craft.bench.training.loop._update = last
sys.argv[0] = "craft"
runpy.run_module("craft.bench", run_name="__main__")
"""


def bench(setup: Setup) -> Findings:
    """A mini RoBERTa on one task, decompositions and tokens cached; seconds on the wall.

    Each start is a run of its own: one left at its first step still holds its folder's lease."""
    shape = "tiny" if setup.shape == "tiny" else "mini"
    overrides = [
        "model=local", f"model.path={setup.backbone(shape)}", *setup.data, f"task={setup.tasks[0]}",
        "method=craft", "method.peft.ranks=[2,8,8]", "logger=none", "train.lr=1e-3",
        "train.head_lr=1e-3", "train.epochs=1", "train.precision=bf16", "train.max_steps=1",
        f"outputs={setup.folder / 'outputs'}", f"train.device={setup.device}",
    ]  # fmt: skip
    seeds = itertools.count()
    _python("-m", "craft.bench", "train", *overrides, f"seed={next(seeds)}")  # fills the caches
    work = {
        "peft": lambda: _python("-c", "import peft"),
        "craft": lambda: _python("-c", "import craft"),
        "peft and hydra": lambda: _python("-c", "import peft, hydra"),
        "first step": lambda: _python("-c", FIRST_STEP, "train", *overrides, f"seed={next(seeds)}"),
    }
    times = interleaved(work, setup.rounds, time.perf_counter)
    figures = [
        ratio("import craft / import peft", times, "craft", "peft", most=1.5),
        figure("command to first step, beyond import peft, hydra", _beyond(times), "s", most=2.5),
        figure("command to first step", times["first step"], "s"),
    ]
    anywhere = [override for override in overrides if "/" not in override]
    return Findings(figures, {"seconds": times, "command": ["train.py", *anywhere]})


def _beyond(times: Times) -> list[float]:
    return [a - b for a, b in zip(times["first step"], times["peft and hydra"], strict=True)]


def _python(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{arguments[0]}: {done.stderr[-2000:]}")
