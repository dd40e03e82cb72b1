"""Metrics to wandb, as a mirror of the record: a run does not depend on it."""

import importlib
from collections.abc import Mapping
from typing import Any

from craft.environment import wandb_mode
from craft.errors import InputError


class NoTracker:
    """logger=none: nothing is logged anywhere but in the record."""

    def __enter__(self) -> "NoTracker":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def log(self, values: Mapping[str, Any], step: int) -> None: ...

    def finish(self, record: Mapping[str, Any]) -> None: ...


class WandbTracker:
    """Config at the start, metrics of every epoch, the record at the end.

    An exception ends wandb's run, too.

    The run's id is the identity's digest, so that a run that goes on after a kill does not become
    two."""

    def __init__(
        self, project: str, run_id: str, name: str, config: Mapping[str, Any], folder: str
    ) -> None:
        wandb = importlib.import_module("wandb")
        self.run = wandb.init(
            project=project, id=run_id[:32], name=name, config=dict(config), dir=folder,
            mode=wandb_mode(), resume="allow" if wandb_mode() == "online" else None,
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def __enter__(self) -> "WandbTracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:  # else the next run of a sweep would log into this one
            self.run.finish(exit_code=1)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self.run.log(dict(values), step=step)

    def finish(self, record: Mapping[str, Any]) -> None:
        best = record["result"]["score"]["best"] or {}  # null where no epoch was finished
        self.run.summary.update({"status": record["status"], "record": record, **best})
        self.run.finish(exit_code=0 if record["status"] == "ok" else 1)


Tracker = NoTracker | WandbTracker


def tracker(
    logger: Mapping[str, Any], run_id: str, name: str, config: Mapping[str, Any], folder: str
) -> Tracker:
    """The tracker that the `logger` section asks for; InputError where wandb is asked for and not
    installed."""
    if logger["name"] == "none":
        return NoTracker()
    if logger["name"] != "wandb":
        raise InputError(f"logger {logger['name']!r} is not one of wandb, none")
    try:
        return WandbTracker(logger["project"], run_id, name, config, folder)
    except ImportError as error:
        raise InputError(
            "logger=wandb, but wandb is not installed; install it or take logger=none"
        ) from error
