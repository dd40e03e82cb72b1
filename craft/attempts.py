"""attempts.json: when a run was started, how each attempt ended and how long it took."""

import json
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from craft.storage import set_aside, write_json


class Attempts:
    """The attempts at a run so far and the one that starts now, which counts even if nothing ends
    it.

    `silent_since` is the last sign of life (seconds since 1970) of an attempt that was killed: so
    long did that one hold its machine. `training` is whether what can refuse a run has let this one
    pass (`begin`): from then on nothing is as it was before."""

    def __init__(self, path: Path, silent_since: float | None = None) -> None:
        self.path = path
        self.made = read(path)
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


def read(path: Path) -> list[dict[str, Any]]:
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
