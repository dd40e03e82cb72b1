"""Metrics to wandb, as a mirror of the record: a run does not depend on it."""

import importlib
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from craft.bench.run.provenance import wandb_mode, without_secrets
from craft.bench.run.record import Record
from craft.bench.settings.sections import Logger
from craft.errors import InputError, first_line

SECONDS = 60  # for wandb to begin and to end


class NoTracker:
    """logger=none: nothing is logged anywhere but in the record."""

    def __enter__(self) -> "NoTracker":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def log(self, values: Mapping[str, Any], step: int) -> None: ...

    def finish(self, record: Record) -> None: ...


class WandbTracker:
    """Config at the start, metrics of every epoch, the record at the end.

    The run's id is the identity's digest, so that a run that goes on after a kill does not become
    two. An exception ends wandb's run, too. Where wandb breaks, at the start or later, training
    goes on without it and one warning says so; where it cannot be reached, it logs offline."""

    def __init__(
        self, project: str, run_id: str, name: str, config: Mapping[str, Any], folder: str
    ) -> None:
        wandb = importlib.import_module("wandb")
        self.run: Any = None

        def begin(mode: str) -> None:
            self.run = wandb.init(
                project=project, id=run_id[:32], name=name, config=dict(config), dir=folder,
                mode=mode, resume="allow" if mode == "online" else None,
                settings=wandb.Settings(silent=True, console="off", init_timeout=SECONDS),
            )  # fmt: skip

        mode = wandb_mode()
        online = mode == "online"
        if not self._try(lambda: begin(mode), "logs offline" if online else None) and online:
            self._try(lambda: begin("offline"))

    def __enter__(self) -> "WandbTracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:  # else the next run of a sweep would log into this one
            self._end(1)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        if self.run is not None:
            self._try(lambda: self.run.log(dict(values), step=step))

    def finish(self, record: Record) -> None:
        best = record.result["score"]["best"] or {}  # null where no epoch was finished
        summary = {"status": record.status, "record": record.plain(), **best}
        if self.run is not None and self._try(lambda: self.run.summary.update(summary)):
            self._end(0 if record.ok else 1)

    def _end(self, code: int) -> None:
        """End wandb's run; one whose server does not answer any more would wait for hours."""
        if self.run is None:
            return
        run, self.run = self.run, None
        ending = threading.Thread(
            target=self._try, args=(lambda: run.finish(exit_code=code),), daemon=True
        )
        ending.start()
        ending.join(SECONDS)
        if ending.is_alive():
            warnings.warn(f"wandb did not end in {SECONDS} s; the run goes on", stacklevel=2)

    def _try(self, work: Callable[[], Any], instead: str | None = None) -> bool:
        """Whether wandb did it; where not, says so and does without it from now on."""
        try:
            work()
            return True
        except Exception as error:  # of whatever kind: a mirror must not end a run
            self.run = None
            how = instead or "goes on without it"
            said = without_secrets(first_line(error))
            warnings.warn(f"wandb: {said}; the run {how}", stacklevel=2)
            return False


Tracker = NoTracker | WandbTracker


def tracker(
    logger: Logger, run_id: str, name: str, config: Mapping[str, Any], folder: str
) -> Tracker:
    """The tracker that the `logger` section asks for; InputError where wandb is asked for and not
    installed."""
    if logger.name == "none":
        return NoTracker()
    try:
        return WandbTracker(str(logger.project), run_id, name, config, folder)
    except ImportError as error:
        raise InputError(
            "logger=wandb, but wandb is not installed; install it or take logger=none"
        ) from error
