"""A copy of the sources for the jobs of a sweep: they run what was submitted, whatever is edited
while they wait."""

import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from craft.bench.run.provenance import SNAPSHOT, SOURCES, commit
from craft.errors import InputError
from craft.files import write_json


def take(root: Path, folder: Path, allow_dirty: bool) -> tuple[Path, dict[str, Any]]:
    """Copy the sources of the checkout `root` to a folder of their own under `folder`; returns it,
    and the commit and whether the sources differ from it.

    InputError where they differ and that is not allowed, and outside a checkout."""
    found = commit()
    if found["commit"] is None:
        raise InputError(f"{root} is not a git checkout: there is no commit to submit")
    if found["dirty"] and not allow_dirty:
        raise InputError(
            f"{', '.join(_changed(root)[:3])} differ from commit {found['commit'][:10]}: commit "
            "them, or give hydra.launcher.allow_dirty=true (the records say so)"
        )
    listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SOURCES]
    names = _git(root, *listing)
    files = sorted(name for name in names.split("\0") if name and (root / name).is_file())
    label = found["commit"][:12]
    if found["dirty"]:
        state = hashlib.sha256()
        for name in files:
            state.update(name.encode() + b"\0" + (root / name).read_bytes())
        label += f"-{state.hexdigest()[:8]}"
    copy = folder / label
    there = [name for name in SOURCES if (root / name).exists()]
    if not (copy / SNAPSHOT).is_file():
        aside = folder / f".{label}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        if found["dirty"]:
            for name in files:
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, aside / name)
        else:
            packed = subprocess.run(
                ["git", "-C", str(root), "archive", found["commit"], "--", *there],
                capture_output=True, check=True,
            ).stdout  # fmt: skip
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(aside, filter="data")
        write_json(aside / SNAPSHOT, found)
        shutil.rmtree(copy, ignore_errors=True)
        aside.rename(copy)
    return copy, found


def _changed(root: Path) -> list[str]:
    lines = _git(root, "status", "--porcelain", "--", *SOURCES).splitlines()
    return [line[3:] for line in lines]


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout
