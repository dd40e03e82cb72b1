"""A run's lease: one process works in a run's folder, and whoever comes second sees who does.

A lease is a file that its holder touches every few seconds and that expires when it is not touched
any more. It lies in a folder `lease.<number>`, which makes its creation fail for all but one of
those who try, under a name that no other lease ever has, so that a process which was suspended
while others came and went touches and removes none but its own. All times are the modification
times that the folder's own file system gives, so that a shared network folder is enough and the
nodes' clocks may differ."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from craft.errors import InputError

BEATS = 6  # heartbeats within the time after which a lease expires


class Held(InputError):
    """Another process works on the run; the message says who."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: a name to show, and the batch job and its restart, where it is one."""

    name: str
    job: str | None = None
    restart: int = 0

    def follows(self, other: "Holder") -> bool:
        """Whether this is a requeued batch job and the other its former self, which has ended."""
        return self.job is not None and self.job == other.job and self.restart != other.restart


@dataclass(frozen=True)
class Found:
    """A lease as others see it: its file, number and holder, the seconds after which it expires,
    and the time of its last heartbeat."""

    path: Path
    number: int
    holder: Holder
    seconds: float
    beat: float


class Lease:
    """A lease that this process holds, kept by a thread until it is released.

    `former` are the expired ones that it has taken over, which stay for as long as it is held."""

    def __init__(
        self,
        path: Path,
        seconds: float,
        silent_since: float | None = None,
        former: Sequence[Path] = (),
    ) -> None:
        self.path, self.seconds, self.former = path, seconds, former
        self.silent_since = silent_since  # the last heartbeat of the lease that it took over
        self._beaten = time.monotonic()
        self._lost, self._end = False, threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Held where another process has taken the lease over after this one was silent."""
        if not self._lost and time.monotonic() - self._beaten > self.seconds:
            self._beat()  # the thread did not come to it: the process was suspended
        if self._lost:
            folder = self.path.parent.parent
            taken = newest(folder)
            by = "another process" if taken is None else taken.holder.name
            raise Held(f"{folder.name}: {by} has taken it over from this silent process")

    def release(self) -> None:
        self._end.set()
        self._thread.join()
        for path in (*self.former, self.path):
            _remove(path)

    def _keep(self) -> None:
        while not self._end.wait(self.seconds / BEATS):
            self._beat()

    def _beat(self) -> None:
        try:
            self._lost = _leases(self.path.parent.parent)[-1:] != [self.path]
            if not self._lost:
                os.utime(self.path)
        except OSError:
            return  # the file system may be back before the lease expires
        self._beaten = time.monotonic()


@contextlib.contextmanager
def hold(
    folder: Path, holder: Holder, seconds: float, say: Callable[[str], None] = lambda line: None
) -> Iterator[Lease]:
    """Hold the lease of a run's folder.

    Where another process holds it, says so and waits until that one is heard, which raises Held, or
    until the lease has expired, and takes it over."""
    held = _take(folder, holder, seconds, say)
    try:
        yield held
    finally:
        held.release()


def newest(folder: Path) -> Found | None:
    """The lease of a folder, expired or not; None where there is none."""
    while paths := _leases(folder):
        path = paths[-1]
        try:
            beat, text = path.stat().st_mtime, path.read_text(errors="replace")
        except FileNotFoundError:  # released in this moment
            continue
        try:
            content = json.loads(text)
            holder, seconds = Holder(**content["holder"]), float(content["seconds"])
        except (ValueError, KeyError, TypeError):  # damaged
            holder, seconds = Holder("an unknown process"), 30.0
        return Found(path, _number(path), holder, seconds, beat)
    return None


def is_held(folder: Path) -> bool:
    """Whether somebody works in a folder, by this machine's clock: good enough to show."""
    found = newest(folder)
    return found is not None and time.time() - found.beat <= found.seconds


def _take(folder: Path, holder: Holder, seconds: float, say: Callable[[str], None]) -> Lease:
    """Create the lease that follows the newest one once that has expired; the expired one stays
    until the end, so that there is no moment without any."""
    content = json.dumps({"holder": asdict(holder), "seconds": seconds})
    watched = None
    while True:
        former, found = _leases(folder), newest(folder)
        if found is not None and not holder.follows(found.holder):
            if watched is not None and (found.path, found.beat) != watched:
                raise Held(
                    f"{folder.name} is held by {found.holder.name}, which works on it; "
                    f"its lease ends {found.seconds:g} s after its last sign of life"
                )
            left = found.beat + found.seconds - _now(folder)
            if watched is None and left >= 0:
                say(
                    f"{folder.name}: held by {found.holder.name}; waiting up to {left:.0f} s for a "
                    "sign of life"
                )
            watched = (found.path, found.beat)
            if left >= 0:
                time.sleep(found.seconds / BEATS / 2)
                continue
        number = 1 if found is None else found.number + 1
        path = folder / f"lease.{number}" / f"{uuid.uuid4().hex}.json"
        if not _create(path, content):
            continue
        if _leases(folder) == [*former, path]:
            return Lease(path, seconds, None if found is None else found.beat, former)
        _remove(path)  # suspended before the creation: the leases are no more what was looked at


def _create(path: Path, content: str) -> bool:
    """Create a lease, whole at once; whether its number was free."""
    aside = path.parent.with_name(f".{path.stem}.tmp")
    aside.mkdir()
    try:
        (aside / path.name).write_text(content, encoding="utf-8")
        aside.rename(path.parent)  # fails where a lease lies in a folder of that name
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT):  # ENOENT: tidied away
            raise
        return False
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True


def _remove(path: Path) -> None:
    """Remove a lease, and its folder unless another's lies there by now."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def _leases(folder: Path) -> list[Path]:
    return sorted(folder.glob("lease.*/*.json"), key=_number)


def _number(path: Path) -> int:
    number = path.parent.name.split(".")[1]
    return int(number) if number.isdecimal() else 0


def _now(folder: Path) -> float:
    """The time by the clock of the folder's file system."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.") as file:
        return os.stat(file.name).st_mtime
