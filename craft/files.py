"""Files that are whole or not there: atomic writes, and tensors with a checksum of their
content."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from craft.errors import InputError


class DamagedFile(Exception):
    """A file whose content is not what was written."""


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving, it is synced to disk and renamed to `path`.

    Several processes may write the same path at once: each has its own temporary file, the last
    rename stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on leaving, its files are synced to disk and it takes
    the place of `path`. After an error it is removed and `path` is as it was."""
    aside = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for written in (p for p in aside.rglob("*") if p.is_file()):
            with written.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def writable(folder: Path) -> None:
    """OSError where a folder takes no new file: read-only, full, or another user's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable.") as file:
        file.write(b"\0")
        file.flush()


def write_text(path: Path, text: str) -> None:
    with atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON; NaN and infinity are refused, a missing value is null."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """InputError where a file is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it can be looked at and nothing takes it for whole; returns
    its new path."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    return aside


def sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The raw bytes of a tensor in row-major order, for hashing."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return memoryview(flat.view(torch.uint8).numpy())


def digest_of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """A digest of names, dtypes, shapes and values, whatever the order of the dictionary."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        state.update(f"{name}:{tensors[name].dtype}:{tuple(tensors[name].shape)};".encode())
        state.update(tensor_bytes(tensors[name]))
    return state.hexdigest()


def read_cached(
    name: str, folders: Iterable[Path], again: str
) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """`read_tensors` of the first folder that has the file whole, e.g. a user's own and a shared
    read-only one; None where none has. A damaged file is named and set aside."""
    for folder in folders:
        path = folder / name
        try:
            return read_tensors(path)
        except FileNotFoundError:
            continue
        except DamagedFile as damage:
            with contextlib.suppress(OSError):  # in a store that is not ours
                set_aside(path)
            warnings.warn(f"set aside, {again} again: {damage}", stacklevel=3)
    return None


def write_cached(
    path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any] | None = None
) -> None:
    """`write_tensors`; a full or read-only disk costs the cache, not the run."""
    try:
        write_tensors(path, tensors, facts)
    except OSError as error:
        warnings.warn(f"{path.name} was not cached ({error.strerror})", stacklevel=3)


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any] | None = None
) -> str:
    """Write tensors and JSON facts as one safetensors file; returns the digest of the tensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = digest_of_tensors(tensors)
    written = json.dumps(facts or {}, allow_nan=False)
    metadata = {"sha256": digest, "facts": written, "facts_sha256": sha256(written.encode())}
    with atomically(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))
    return digest


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote, on the CPU.

    Raises FileNotFoundError where there is no file and DamagedFile where its content does not match
    its checksum."""
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise DamagedFile(f"{path}: {error}") from error
    facts = metadata.get("facts", "")
    intact = digest_of_tensors(tensors) == metadata.get("sha256") and sha256(
        facts.encode()
    ) == metadata.get("facts_sha256")
    if not intact:
        raise DamagedFile(f"{path}: the content does not match its checksum")
    return tensors, json.loads(facts)
