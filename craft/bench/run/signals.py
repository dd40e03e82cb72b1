"""How a stop reaches the runs of a process: signals ask for it, and a run ends at its next step.

Until `started` says that this is the process that a user or a job has started, it counts as a
launcher's worker."""

import contextlib
import os
import signal
import threading
from typing import Any

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
_received: list[int] = []
_before: dict[int, Any] = {}  # the handlers that ours took the place of
_worker = True


class Stopped(Exception):
    """Interrupted, in a launcher's worker: an Exception, so that the other workers are not killed
    while they write their checkpoints."""


def started() -> None:
    """This is no launcher's worker: it hands signals on to those that it has."""
    global _worker
    _worker = False


def is_worker() -> bool:
    return _worker


def listen() -> None:
    """Let SIGTERM, SIGUSR2 and SIGINT ask for a stop, also in a launcher's worker processes."""
    if threading.current_thread() is not threading.main_thread():
        return  # a notebook or a test; signals are then somebody else's
    for number in SIGNALS:
        if (before := signal.signal(number, _receive)) is not _receive:
            _before[number] = before


def stopped() -> bool:
    """Whether SIGTERM, SIGUSR2 or SIGINT has asked this process to stop; SIGINT twice ends it."""
    return bool(_received)


def received() -> list[int]:
    """The signals that have asked for a stop."""
    return list(_received)


def hand_over() -> None:
    """After an interruption give the signal to submitit, if this is its job: it requeues and exits.

    It does so on its own signal, SIGUSR2 (a time limit, or a preemption that is announced by it);
    a SIGTERM alone is a cancellation, or a preemption after which Slurm requeues by itself."""
    handler = _before.get(signal.SIGUSR2)
    of_submitit = getattr(handler, "__module__", None) == "submitit.core.job_environment"
    if callable(handler) and of_submitit and signal.SIGUSR2 in _received:
        handler(signal.SIGUSR2, None)


def _receive(number: int, _frame: object) -> None:
    if number == signal.SIGINT:
        if _received:
            raise KeyboardInterrupt
        os.write(2, b"stopping after this step; Ctrl-C again stops at once\n")
    _received.append(number)
    if not _worker and number != signal.SIGINT:  # a terminal sends its Ctrl-C to all by itself
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if any("popen_loky" in part for part in process.cmdline()):  # joblib's workers
                    process.send_signal(signal.SIGTERM)
