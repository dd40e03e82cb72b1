"""A copy of the sources for the jobs of a sweep: they run what was submitted, whatever is edited
while they wait."""

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from craft.bench.run import provenance
from craft.bench.run.provenance import SNAPSHOT, SOURCES
from craft.errors import InputError
from craft.files import write_json


def take(folder: Path, allow_dirty: bool) -> tuple[Path, dict[str, Any]]:
    """Copy the checkout's sources to a folder of their own under `folder`; returns it, and the
    commit and whether the sources differ from it.

    InputError where they differ and that is not allowed, and outside a checkout."""
    root, found = provenance.ROOT, provenance.commit()
    if found["commit"] is None:
        raise InputError(f"{root} is not a git checkout: there is no commit to submit")
    tree, label = found["commit"], found["commit"][:12]
    there = [name for name in SOURCES if (root / name).exists()]
    if found["dirty"]:
        status = _git("status", "--porcelain", "--", *SOURCES).decode().splitlines()
        if not allow_dirty:
            raise InputError(
                f"{', '.join(line[3:] for line in status[:3])} differ from commit {label}: "
                "commit them, or give hydra.launcher.allow_dirty=true (the records say so)"
            )
        with tempfile.TemporaryDirectory() as aside:  # the user's own index stays as it is
            index = {"GIT_INDEX_FILE": f"{aside}/index"}
            _git("add", "--all", "--", *there, **index)
            tree = _git("write-tree", **index).decode().strip()
        label += f"-{tree[:8]}"
    copy = folder / label
    if not (copy / SNAPSHOT).is_file():
        aside = folder / f".{copy.name}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        packed = _git("archive", tree, "--", *there)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(aside, filter="data")
        write_json(aside / SNAPSHOT, found)
        shutil.rmtree(copy, ignore_errors=True)
        aside.rename(copy)
    return copy, found


def _git(*arguments: str, **environment: str) -> bytes:
    done = subprocess.run(
        ["git", "-C", str(provenance.ROOT), *arguments], capture_output=True, check=True,
        env=os.environ | environment,
    )  # fmt: skip
    return done.stdout
