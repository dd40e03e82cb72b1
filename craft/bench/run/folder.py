"""A run's folder: its place, and attempts.json: when it was started, how each attempt ended and how
long it took."""

import contextlib
import json
import shutil
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from craft.bench.run.record import Record
from craft.bench.settings.sections import RunConfig
from craft.errors import InputError
from craft.files import set_aside, writable, write_json


class Attempts:
    """The attempts at a run so far and the one that starts now, which counts even if nothing ends
    it.

    `silent_since` is the last sign of life (seconds since 1970) of an attempt that was killed: so
    long did that one hold its machine. `training` is whether what can refuse a run has let this one
    pass (`begin`): from then on nothing is as it was before."""

    def __init__(self, path: Path, silent_since: float | None = None) -> None:
        self.path = path
        self.made = read_attempts(path)
        self.training = False
        self._clock = time.monotonic()
        if silent_since is not None and self.made and self.made[-1]["ended"] == "killed":
            started = datetime.fromisoformat(self.made[-1]["started"]).timestamp()
            self.made[-1]["seconds"] = round(max(0.0, silent_since - started), 3)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.made.append({"started": now, "seconds": 0.0, "ended": "killed"})
        write_json(path, self.made)

    def begin(self) -> None:
        self.training = True

    def end(self, how: str) -> None:
        self.made[-1] |= {"seconds": round(time.monotonic() - self._clock, 3), "ended": how}
        write_json(self.path, self.made)

    def forget(self) -> None:
        """Leave the list as it was before this attempt, which ended at the door."""
        self.made.pop()
        if self.made:
            write_json(self.path, self.made)
        else:
            self.path.unlink(missing_ok=True)

    def spent(self) -> dict[str, Any]:
        """What the record says: every attempt, and the seconds that they held a machine for."""
        seconds = round(sum(attempt["seconds"] for attempt in self.made), 3)
        return {"attempts": self.made, "seconds": seconds}


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """The attempts in a file; a damaged file is set aside, named, and counts as none."""
    if not path.is_file():
        return []
    try:
        made = json.loads(path.read_bytes())
        for attempt in made:
            datetime.fromisoformat(attempt["started"])
            known = isinstance(attempt["seconds"], float | int) and isinstance(
                attempt["ended"], str
            )
            if not known:
                raise ValueError(attempt)
    except (ValueError, KeyError, TypeError) as error:
        aside = set_aside(path)
        warnings.warn(
            f"{path}: damaged ({type(error).__name__}), set aside as {aside.name}", stacklevel=2
        )
        return []
    return made


@dataclass(frozen=True)
class RunFolder:
    """Where a run lives: outputs/runs/<task>-<method>-<model>-s<seed>-<start of its identity's
    digest>."""

    path: Path

    @classmethod
    def of(cls, config: RunConfig, run_id: str, model: str) -> "RunFolder":
        """The run's folder, also where the model or the method had another name when it was
        made."""
        runs, ending = config.outputs / "runs", f"-{run_id[:10]}"
        for folder in sorted(runs.glob(f"*{ending}")):
            return cls(folder)
        label = "".join(c if c.isalnum() else "_" for c in config.method.label.lower())
        name = f"{config.task.name}-{label}-{model}-s{config.seed}{ending}"
        return cls(runs / name)

    @property
    def record(self) -> Path:
        return self.path / "record.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.safetensors"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts.json"

    def make(self) -> bool:
        """Create the folder where it is not there, and return whether it was not; InputError where
        the outputs cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            created = not self.path.is_dir()
            self.path.mkdir(exist_ok=True)
            writable(self.path)
        except OSError as error:
            raise InputError(
                f"outputs: {self.path.parent.parent} cannot be written ({error.strerror})"
            ) from error
        return created

    def read(self) -> Record | None:
        """The run's own record, None where there is none; a damaged one is named, set aside and
        counts as none."""
        if not self.record.is_file():
            return None
        try:
            return Record.read(self.record)
        except InputError as error:
            with contextlib.suppress(OSError):  # results that cannot be written
                error = f"{error}; set aside as {set_aside(self.record).name}"
            warnings.warn(str(error), stacklevel=2)
            return None

    def tidy(self) -> None:
        """Remove what a killed process has left of files that it was writing."""
        self._remove(".*.tmp")

    def finish(self) -> None:
        """Remove what a finished run needs no more."""
        for pattern in (self.checkpoint.name, "lease.*", ".*.tmp"):
            self._remove(pattern)

    def _remove(self, pattern: str) -> None:
        with contextlib.suppress(OSError):  # results that cannot be written
            for path in self.path.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def done(self) -> Record | None:
        """The run's own record where it is ok."""
        found = self.read()
        return found if found is not None and found.ok else None
