"""Copy finished runs into results/, the evidence behind the tables, without local paths."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from craft.bench.run import record
from craft.bench.run.predictions import predictions_path, read_predictions
from craft.bench.run.record import Record
from craft.errors import InputError
from craft.files import atomically

LARGEST = 200_000  # bytes of a predictions file that is kept
PATHS = ("model.path", "data.dir", "outputs", "adapter", "predict.input", "predict.output")
ABSOLUTE = re.compile(r"(?<![\w.:/])~?/[^\s'\",:;()\[\]{}]+")  # in running text, such as a warning


@dataclass
class Promotion:
    """What was done, by name."""

    copied: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    without_predictions: list[str] = field(default_factory=list)


def promote(
    source: Path,
    results: Path,
    patterns: Sequence[str],
    allow_dirty: bool = False,
    diverged: bool = False,
) -> Promotion:
    """Copy the ok records whose names match a pattern, and under `diverged` those of runs that
    diverged, too; again with the same records it changes nothing.

    InputError, before anything is copied, names a pattern that matches nothing, a run that is not
    ok, one from a checkout with changes (unless allowed; its record then says so), and one whose
    predictions are not its own."""
    chosen = record.named(source, patterns)
    finished = ("ok", "diverged") if diverged else ("ok",)
    bad = [name for name, (_, made) in chosen.items() if made.status not in finished]
    if bad:
        raise InputError(f"not ok: {', '.join(bad)}")
    dirty = [n for n, (_, made) in chosen.items() if _dirty(made)]
    if dirty and not allow_dirty:
        raise InputError(
            f"from a checkout with changes: {', '.join(dirty)}; commit and run them again, or "
            "give --allow-dirty"
        )
    for path, made in chosen.values():
        read_predictions(path, made)
    done = Promotion()
    for name, (path, made) in chosen.items():
        known = scrubbed(made.provenance)
        if name in dirty:
            known["promoted"] = "from a checkout with changes, by --allow-dirty"
        clean = replace(made, provenance=known)
        target = results / "runs" / f"{name}.json"
        predictions, kept = predictions_path(path), results / "predictions" / f"{name}.safetensors"
        small = predictions.is_file() and predictions.stat().st_size < LARGEST
        if not small:
            done.without_predictions.append(name)
        content = predictions.read_bytes() if small else None
        same = target.is_file() and _same(target, clean)
        if same and (content is None or (kept.is_file() and kept.read_bytes() == content)):
            done.unchanged.append(name)
            continue
        if content is not None:
            with atomically(kept) as temporary:
                temporary.write_bytes(content)
        clean.write(target)
        done.copied.append(name)
    return done


def _dirty(made: Record) -> bool:
    """Whether the code that made this record is not a known commit's."""
    return made.provenance["environment"]["dirty"] is not False


def _same(target: Path, clean: Record) -> bool:
    try:
        return Record.read(target) == clean
    except InputError:
        return False


def scrubbed(provenance: dict[str, Any]) -> dict[str, Any]:
    """Provenance with every local path cut to its last component."""
    cleaned = _without_paths(provenance, "")
    cleaned["command"] = shlex.join(_argument(part) for part in shlex.split(provenance["command"]))
    return cleaned


def _without_paths(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {k: _without_paths(v, f"{key}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_without_paths(v, key) for v in value]
    if not isinstance(value, str):
        return value
    if key.startswith(".config.") and key.removeprefix(".config.") in PATHS:
        return _last(value)
    return ABSOLUTE.sub(lambda found: _last(found[0]), value)


def _argument(part: str) -> str:
    """A word of the command line: KEY=PATH of the keys above, and anything that is an absolute or
    parent path."""
    key, equals, value = part.partition("=")
    if not equals:
        return _last(part) if part.startswith(("/", "~", "..")) else part
    local = key.lstrip("+~") in PATHS or value.startswith(("/", "~", ".."))
    return f"{key}={_last(value)}" if local and value not in ("", "null") else part


def _last(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name or path
