"""One run = one JSON record: its identity, what it found (`result`) and how it came about
(`provenance`)."""

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from craft.config import RunConfig, declaration, flatten
from craft.declared import Effect
from craft.environment import anonymous
from craft.errors import InputError
from craft.storage import set_aside, sha256, writable, write_json
from craft.targets import peft_config_class

SCHEMA = 1  # layout of the file
FIELDS = {"schema", "protocol", "id", "status", "error", "result_sha256", "result", "provenance"}
PROTOCOL = 2  # raised by hand when code changes what the same config results in


class Known(NamedTuple):
    """What a record of these weights does not say where it is of before records did: the encoder's
    facts, and the digest of the tokenizer beside it, with which such a run keeps its id."""

    name: str
    licence: str
    model_type: str
    tokenizer: str


KNOWN = {
    "0112bc207fae74c4a725ab86ae50993c6348950d45238cc55ee52da7a20c9f91": Known(
        "roberta_mini",
        "cc-by-sa-3.0",
        "roberta",
        "2ef7c799d5295dfb0ce0b3e242545ffad2e14515c408c2621baecfe2fb8bfb6e",
    ),
    "16692479805225862faaf216eb7cdf58a2179a73c784cc6d4ea59f22a7436131": Known(
        "all-MiniLM-L6-v2",
        "apache-2.0",
        "bert",
        "6e165478604a3102a258b0812cbcfe05f46dfbd2bdaa38749b7e4c0a72ab44fc",
    ),
}


def identity(
    config: RunConfig, model_digest: str, data_digest: str, tokenizer_digest: str
) -> dict[str, Any]:
    """What makes this run this run, as a flat dictionary: settings that change something and are
    not neutral, and digests of weights, data and tokenizer."""
    kept: dict[str, Any] = {
        "protocol": PROTOCOL,
        "model.digest": model_digest,
        "data.digest": data_digest,
    }
    known = KNOWN.get(model_digest)
    if known is None or known.tokenizer != tokenizer_digest:
        kept["tokenizer.digest"] = tokenizer_digest
    for key, value in flatten({k: v for k, v in config.resolved.items() if k != "method"}):
        found = declaration(key)
        if found.effect is not Effect.NOTHING and value != found.neutral:
            kept[key] = value
    if config.method.get("train_backbone"):
        kept["method.train_backbone"] = True
    kept["method.peft"] = _without_defaults(config.method["peft"])
    return kept


def _without_defaults(peft: Mapping[str, Any]) -> dict[str, Any]:
    """A method's fields, those at the default of its PeftConfig class left out."""
    defaults = {
        f.name: f.default_factory() if f.default_factory is not MISSING else f.default
        for f in fields(peft_config_class(peft))
    }

    def plain(value: Any) -> Any:
        return (
            sorted(value)
            if isinstance(value, set)
            else list(value)
            if isinstance(value, tuple)
            else value
        )

    return {
        k: v for k, v in peft.items() if k == "_target_" or plain(defaults.get(k, MISSING)) != v
    }


def digest(content: Any) -> str:
    """The digest of JSON content, whatever the order of its keys."""
    return sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode())


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
        label = "".join(c if c.isalnum() else "_" for c in config.method["label"].lower())
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

    def read(self) -> dict[str, Any] | None:
        """The run's own record, None where there is none; a damaged one is named, set aside and
        counts as none."""
        if not self.record.is_file():
            return None
        try:
            return read(self.record)
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

    def done(self) -> dict[str, Any] | None:
        """The run's own record where it is ok."""
        found = self.read()
        return found if found is not None and found["status"] == "ok" else None


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
    if schema != SCHEMA:
        raise InputError(f"{path}: schema {schema!r} instead of {SCHEMA}")
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
