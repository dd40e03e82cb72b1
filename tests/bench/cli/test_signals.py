"""How a stop reaches the runs of a launcher's worker, and how it comes back out of it."""

import os
import signal
import sys

import pytest
from omegaconf import OmegaConf
from submitit.core import job_environment

from craft.bench.cli import process
from craft.bench.run import signals
from craft.errors import Interrupted

CFG = OmegaConf.create()


@pytest.fixture(autouse=True)
def _as_a_fresh_worker(monkeypatch):
    handlers = {number: signal.getsignal(number) for number in signals.SIGNALS}
    monkeypatch.setattr(signals, "_worker", True)
    monkeypatch.setattr(signals, "_before", {})
    signals._received.clear()
    yield
    signals._received.clear()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def until_stopped(cfg):
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.stopped()
    raise Interrupted("stopped at step 3")


def test_worker_hears_signals_and_its_interruption_is_an_exception_that_kills_no_other():
    with pytest.raises(signals.Stopped, match="stopped at step 3"):
        process.job(until_stopped)(CFG)


def test_after_a_signal_no_further_run_begins():
    with pytest.raises(signals.Stopped):
        process.job(until_stopped)(CFG)
    with pytest.raises(signals.Stopped, match="stopped before the next run began"):
        process.job(lambda cfg: pytest.fail("began"))(CFG)


def test_in_the_process_that_was_started_an_interruption_ends_the_sweep(monkeypatch):
    monkeypatch.setattr(signals, "_worker", False)
    with pytest.raises(Interrupted):
        process.job(until_stopped)(CFG)


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR2, True), (signal.SIGTERM, False)])
def test_submitits_own_handler_requeues_after_the_checkpoint_on_its_own_signal(
    number, requeued, monkeypatch
):
    events = []
    monkeypatch.setattr(
        job_environment.SignalHandler, "checkpoint_and_try_requeue",
        lambda self, number, frame=None: events.append("requeued"),
    )  # fmt: skip
    handler = job_environment.SignalHandler(None, None, None)  # type: ignore[arg-type]
    handler.checkpoint_and_try_requeue.__func__.__module__ = job_environment.__name__
    signal.signal(signal.SIGUSR2, handler.checkpoint_and_try_requeue)

    def main(cfg):
        os.kill(os.getpid(), number)
        assert events == []  # the signal only asks
        events.append("checkpoint")
        raise Interrupted("stopped")

    with pytest.raises(signals.Stopped):
        process.job(main)(CFG)
    assert events == ["checkpoint", "requeued"][: 1 + requeued]


def test_worker_that_a_stop_ended_before_it_could_hear_is_an_interruption(monkeypatch, capsys):
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def main(signalled):
        if signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        raise TerminatedWorkerError("exit codes {SIGTERM(-15)}")

    with pytest.raises(TerminatedWorkerError):  # which nobody asked for
        process.start(lambda: main(signalled=False))
    with pytest.raises(SystemExit) as left:
        process.start(lambda: main(signalled=True))
    assert left.value.code == 130
    assert capsys.readouterr().err == "interrupted: a worker ended before its run began\n"
