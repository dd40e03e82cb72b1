"""One run = one JSON record: its identity, what it found (`result`) and how it came about
(`provenance`)."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from craft.bench.run.identity import PROTOCOL
from craft.bench.run.provenance import anonymous
from craft.errors import InputError
from craft.files import sha256, write_json

SCHEMA = 2  # layout of the file; 1 does not say its experiment, its row and what it differs in
READ = (1, SCHEMA)
FIELDS = {"schema", "protocol", "id", "status", "error", "result_sha256", "result", "provenance"}


def digest(content: Any) -> str:
    """The digest of JSON content, whatever the order of its keys."""
    return sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode())


def make(
    run_id: str,
    status: str,
    result: dict[str, Any] | None,
    provenance: dict[str, Any],
    error: str | None = None,
) -> dict[str, Any]:
    """Assemble a record; `status` is ok, diverged or failed, and `result` is null for a failed
    run."""
    return {
        "schema": SCHEMA,
        "protocol": PROTOCOL,
        "id": run_id,
        "status": status,
        "error": anonymous(error),
        "result_sha256": None if result is None else digest(result),
        "result": result,
        "provenance": anonymous(provenance),
    }


def write(path: Path, record: Mapping[str, Any]) -> None:
    write_json(path, sealed(record))


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the checksum of all that it holds."""
    return {**record, "sha256": _checksum(record)}


def _checksum(record: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in record.items() if key != "sha256"})


def read(path: Path) -> dict[str, Any]:
    """Read and check one record; InputError where it is damaged, of another schema, or not what was
    written."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        schema, result = record["schema"], record["result"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path}: not a run record ({type(error).__name__})") from error
    if schema not in READ:
        allowed = " or ".join(map(str, READ))
        raise InputError(f"{path}: schema {schema!r} instead of {allowed}")
    if record.keys() - {"sha256"} != FIELDS:  # records of the first commits had no such checksum
        raise InputError(f"{path}: not a run record (it has the fields {', '.join(record)})")
    try:
        result_intact = result is None or record["result_sha256"] == digest(result)
        whole = _checksum(record)
    except ValueError as error:  # NaN has no digest
        raise InputError(f"{path}: not a run record ({type(error).__name__})") from error
    if not result_intact:
        raise InputError(f"{path}: the result does not match its checksum")
    if record.get("sha256", whole) != whole:
        raise InputError(f"{path}: the record does not match its checksum")
    return record


def named(runs: Path, patterns: Sequence[str]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Name -> path and record of the runs in outputs/runs whose names match a pattern, by name.

    InputError names a pattern that matches nothing, and a record that is damaged."""
    paths = {path.parent.name: path for path in sorted(runs.glob("*/record.json"))}
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for pattern in patterns:
        names = [name for name in paths if fnmatchcase(name, pattern)]
        if not names:
            raise InputError(f"{pattern!r} is the name of no run in {runs}")
        found |= {name: (paths[name], read(paths[name])) for name in names}
    return dict(sorted(found.items()))


def read_all(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every sound record under a folder, in the order of its path; others are named in a warning
    and left out."""
    for path in sorted(folder.rglob("*.json")):
        if path.name != "record.json" and path.parent.name != "runs":
            continue
        try:
            yield path, read(path)
        except InputError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
