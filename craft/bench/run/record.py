"""One run = one JSON record: its identity, what it found (`result`) and how it came about
(`provenance`)."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from craft.bench.run.identity import PROTOCOL
from craft.errors import InputError
from craft.files import sha256, write_json

SCHEMA = 2  # layout of the file; 1 does not say its experiment, its row and what it differs in
READ = (1, SCHEMA)


@dataclass(frozen=True)
class Record:
    """One run: `status` is ok, diverged or failed, `result` empty of a failed run. From schema 2 on
    `provenance` says its experiment, its row of Table 2 and what it differs in from the files."""

    id: str
    status: str
    result: dict[str, Any]
    provenance: dict[str, Any]
    error: str | None = None
    protocol: int = PROTOCOL
    schema: int = SCHEMA

    @property
    def name(self) -> str:
        return self.provenance["name"]

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def result_sha256(self) -> str | None:
        return digest(self.result) if self.result else None

    def score(self, epoch: str = "best") -> float | None:
        """Its headline metric at the best or the last epoch; None where no epoch was finished."""
        score = self.result.get("score") or {}
        return float(score[epoch][score["headline"]]) if score.get(epoch) else None

    def plain(self) -> dict[str, Any]:
        """What its file holds, without the checksum."""
        return {
            "schema": self.schema,
            "protocol": self.protocol,
            "id": self.id,
            "status": self.status,
            "error": self.error,
            "result_sha256": self.result_sha256,
            "result": self.result or None,
            "provenance": self.provenance,
        }

    def write(self, path: Path) -> None:
        """Write it whole, with the checksum of all that it holds."""
        content = self.plain()
        write_json(path, content | {"sha256": digest(content)})

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Record":
        """The inverse of `plain`."""
        own = {f.name: content[f.name] for f in fields(cls)}
        return cls(**own | {"result": content["result"] or {}})

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Read and check a record; InputError where it is damaged, of another schema, or not what
        was written."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            schema = content["schema"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InputError(f"{path}: not a run record ({type(error).__name__})") from error
        if schema not in READ:
            allowed = " or ".join(map(str, READ))
            raise InputError(f"{path}: schema {schema!r} instead of {allowed}")
        # records of the first commits had no checksum of the whole
        stated = content.pop("sha256", None)
        if content.keys() != {f.name for f in fields(cls)} | {"result_sha256"}:
            raise InputError(f"{path}: not a run record (it has the fields {', '.join(content)})")
        made = cls.of(content)
        try:
            result_intact = content["result_sha256"] == made.result_sha256
            whole = digest(content)
        except ValueError as error:  # NaN has no digest
            raise InputError(f"{path}: not a run record ({type(error).__name__})") from error
        if not result_intact:
            raise InputError(f"{path}: the result does not match its checksum")
        if stated not in (None, whole):
            raise InputError(f"{path}: the record does not match its checksum")
        return made


def digest(content: Any) -> str:
    """The digest of JSON content, whatever the order of its keys."""
    return sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode())


def named(runs: Path, patterns: Sequence[str]) -> dict[str, tuple[Path, Record]]:
    """Name -> path and record of the runs in outputs/runs whose names match a pattern, by name.

    InputError names a pattern that matches nothing, and a record that is damaged."""
    paths = {path.parent.name: path for path in sorted(runs.glob("*/record.json"))}
    found: dict[str, tuple[Path, Record]] = {}
    for pattern in patterns:
        names = [name for name in paths if fnmatchcase(name, pattern)]
        if not names:
            raise InputError(f"{pattern!r} is the name of no run in {runs}")
        found |= {name: (paths[name], Record.read(paths[name])) for name in names}
    return dict(sorted(found.items()))


def read_all(folder: Path) -> Iterator[tuple[Path, Record]]:
    """Every sound record under a folder, in the order of its path; others are named in a warning
    and left out."""
    for path in sorted(folder.rglob("*.json")):
        if path.name != "record.json" and path.parent.name != "runs":
            continue
        try:
            yield path, Record.read(path)
        except InputError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
