"""SIGKILL at any moment: started again, a run ends with the unbroken run's result."""

import contextlib
import json
import os
import random
import signal
import time

import pytest
from injected import injecting
from tiny_bench import Bench

import craft.bench.run.adapter
import craft.bench.run.execute
import craft.bench.run.inputs
import craft.bench.training.loop
import craft.files
from craft import tucker
from craft.bench.run.record import Record
from craft.tucker import use_cache

PHASES = {  # module, name: a call of it in that phase, and how many calls a run makes
    "at the start": (craft.bench.run.inputs, "locate", 1),
    "while it attaches": (craft.bench.run.execute, "prepare", 1),
    "in the decomposition": (tucker, "decompose", 2),
    "in mid-epoch": (craft.bench.training.loop, "_backward", 12),
    "after an optimizer step": (craft.bench.training.loop, "_update", 12),
    "while a checkpoint is written": (craft.bench.training.loop, "save_checkpoint", 14),
    "in the evaluation": (craft.bench.training.loop, "predict", 4),
    "while predictions are written": (craft.bench.run.execute, "write_predictions", 1),
    "while adapters are saved": (craft.bench.run.adapter, "_save_adapter", 2),
    "while the record is written": (Record, "write", 1),
}
AGAIN = "since the last checkpoint"
MORE = ["train.epochs=4", "lease_seconds=1", "train.checkpoint_minutes=0"]


@pytest.fixture(scope="module")
def unbroken(tiny_roberta, tiny_glue, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    made = Bench(tiny_roberta, tiny_glue, folder).run("train.epochs=4")
    use_cache(None)
    return made["result_sha256"]


def kill_in(phase, dice):
    """Let this process kill itself in a call of the phase: before it, after it, or while the file
    that it writes is written."""
    module, name, calls = PHASES[phase]
    original, at = getattr(module, name), dice.randint(1, calls)
    where = dice.choice(["before", "after", "in a write"])
    count = []

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def watched(*arguments, **named):
        count.append(1)
        if len(count) == at:
            if where == "before":
                die()
            if where == "in a write":
                craft.files.os.fsync = die
        done = original(*arguments, **named)
        if len(count) == at and where == "after":
            die()
        return done

    setattr(module, name, watched)


def start_and_die(bench, phase, dice):
    """A run in a process of its own that is killed in a phase; whether it was."""
    child = os.fork()
    if child == 0:
        try:
            kill_in(phase, dice)
            bench.run(*MORE)
        finally:
            os._exit(0)
    return was_killed(child)


def was_killed(child):
    """Wait for a process to end; whether SIGKILL ended it, and not its work."""
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def assert_it_ends_like_the_unbroken_run(seed, bench, unbroken):
    dice = random.Random(seed)
    killed = 0
    with contextlib.ExitStack() as injected:  # counts what did kill, once the run has ended well
        for _ in range(dice.randint(1, 3)):
            phase = list(PHASES)[(seed + killed) % len(PHASES)]
            if start_and_die(bench, phase, dice):
                killed += 1
                injected.enter_context(injecting(f"SIGKILL {phase}", AGAIN))
        made = bench.run(*MORE)
        assert made["status"] == "ok" and made["result_sha256"] == unbroken
        (folder,) = (bench.outputs / "runs").iterdir()
        left = {path.name for path in folder.iterdir()}
        assert left == {"record.json", "predictions.safetensors", "attempts.json", "best", "last"}
        assert json.loads((folder / "record.json").read_text()) == made


@pytest.mark.parametrize("seed", [3, 4, 9])
def test_killed_run_ends_with_the_unbroken_result(seed, bench, unbroken):
    assert_it_ends_like_the_unbroken_run(seed, bench, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 40))
def test_thirty_rounds(seed, bench, unbroken):
    assert_it_ends_like_the_unbroken_run(seed, bench, unbroken)


@pytest.mark.slow
def test_killed_by_the_clock(bench):
    """At ten moments that no code chooses, of a run that is long enough for them."""
    more, dice = [*MORE, "train.epochs=200"], random.Random(0)
    unbroken = bench.elsewhere("unbroken").run("train.epochs=200")["result_sha256"]
    use_cache(None)
    with contextlib.ExitStack() as injected:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                try:
                    bench.run(*more)
                finally:
                    os._exit(0)
            time.sleep(dice.random() * 2)
            os.kill(child, signal.SIGKILL)
            if was_killed(child):
                injected.enter_context(injecting("SIGKILL at a moment of the clock's", AGAIN))
        made = bench.run(*more)
        assert made["result_sha256"] == unbroken
        ended = [attempt["ended"] for attempt in made["provenance"]["attempts"]]
        assert ended.count("killed") >= 3 and ended[-1] == "ok"
