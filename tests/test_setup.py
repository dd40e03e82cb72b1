"""The set-up says one thing everywhere: ranges, lock, conda, Makefile, and what is installed."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()

BENCH_MODULES = {
    "hydra", "omegaconf", "datasets", "evaluate", "wandb", "pandas", "sklearn", "scipy.stats",
    "matplotlib",
}  # fmt: skip

# An absolute path below a folder where people and machines keep their own things; not a part of a
# longer path, of a URL or of a shell variable's value.
MACHINE_PATH = re.compile(r"(?<![\w./~})-])/(home|root|work|opt|mnt|scratch|tmp|Users)/[\w.-]+")


def pins(lines: list[str]) -> dict[str, str]:
    """`name==version` lines as a dictionary; anything that is not an exact pin is refused."""
    found = {}
    for line in lines:
        match = re.fullmatch(r"([\w.-]+)==([\w.+!-]+)", line)
        assert match, f"not an exact pin: {line}"
        found[canonicalize_name(match[1])] = match[2]
    return found


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


def torch_pin() -> str:
    match = re.search(r"^TORCH := torch==(\S+)$", MAKEFILE, flags=re.MULTILINE)
    assert match, "the Makefile has no line TORCH := torch==<version>"
    return match[1]


def test_core_needs_six_packages_in_wide_ranges():
    core = {r.name: str(r.specifier) for r in map(Requirement, PROJECT["dependencies"])}
    assert core == {
        "torch": ">=2.11",
        "transformers": ">=4.57",
        "peft": ">=0.18.1",
        "tensorly": "",
        "safetensors": "",
        "scipy": "",
    }


def test_lock_satisfies_every_range():
    locked = lock()
    assert "torch" not in locked
    locked["torch"] = torch_pin()
    extras = dict(PROJECT["optional-dependencies"])
    optuna = extras.pop("hpo")  # on top of the lock, for those who want it
    assert set(extras) == {"bench", "slurm", "notebooks", "dev"}
    assert not {canonicalize_name(Requirement(text).name) for text in optuna} & set(locked)
    for text in PROJECT["dependencies"] + sum(extras.values(), []):
        wanted = Requirement(text)
        version = locked[canonicalize_name(wanted.name)]
        assert version in wanted.specifier, f"the lock has {wanted.name} {version}, not {wanted}"


def test_conda_environment_has_the_pins_of_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    assert python.removeprefix("python=") in SpecifierSet(PROJECT["requires-python"])
    assert "-r requirements.lock" in pip["pip"]
    direct = pins([line for line in pip["pip"] if not line.startswith("-")])
    assert direct == {"torch": torch_pin()}


def test_installed_versions_are_those_of_the_lock():
    if not Path(sys.prefix, ".stamp").exists():
        pytest.skip(f"{sys.prefix} was not made by `make setup`")
    wanted = lock() | {"torch": torch_pin()}
    installed = {name: importlib.metadata.version(name) for name in wanted}
    installed["torch"] = Version(installed["torch"]).public  # without +cpu, +cu130
    assert installed == wanted


def test_import_craft_loads_nothing_of_the_bench():
    # Beyond what the core loads by itself: what another peft or transformers imports is not ours.
    code = """
import sys
import torch, transformers, peft, tensorly, safetensors
before = set(sys.modules)
import craft
print(*set(sys.modules) - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = run.stdout.split()
    assert "craft" in loaded
    assert BENCH_MODULES.isdisjoint(loaded)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on PATH")
def test_help_lists_every_target_with_its_time():
    targets = set(re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, flags=re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, flags=re.MULTILINE)
    assert targets == set(phony.split())
    # The variables of an outer `make test` would change what the inner one prints.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    run = subprocess.run(
        ["make"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    listed = dict(line.split(maxsplit=1) for line in run.stdout.splitlines())
    assert set(listed) == targets
    for target, text in listed.items():
        assert re.search(r"\(.+\)$", text), f"{target} has no expected time"


def test_no_file_mentions_a_path_of_a_machine():
    git = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if git.returncode:
        pytest.skip("not a git checkout")
    mentions = []
    for name in filter(None, git.stdout.split("\0")):
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # binary; deleted but still in the index
            continue
        mentions += [f"{name}: {match[0]}" for match in MACHINE_PATH.finditer(text)]
    assert not mentions


@pytest.mark.parametrize(
    ("target", "some"),
    [("reproduce-glue", {"SUITE", "METHODS", "TASKS", "WORKERS"}), ("doctor", {"SUITE"})],
)
def test_make_hands_on_every_option_that_its_help_names(target, some):
    named = re.search(rf"^{target}:.*?## [^;]*;(.*)\(", MAKEFILE, flags=re.MULTILINE)
    assert named, "the target has no help of the form `what it does; OPTIONS (minutes)`"
    options = re.findall(r"\b[A-Z]+(?:_[A-Z]+)?\b", named[1])
    assert some | {"GLUE_DIR", "MODEL_DIR"} <= set(options)
    given = [f"{option}=given-{option}" for option in options]
    shown = subprocess.run(
        ["make", "-n", "-C", ROOT, target, *given],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for option in options:
        assert f'"{option.lower()}=given-{option}"' in shown


def test_every_script_that_make_runs_is_there():
    named = set(re.findall(r"\bscripts/\w+\.py\b", MAKEFILE))
    assert named and not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.parametrize("target", ["speed", "bench"])
def test_speed_runs_by_its_old_name_too(target):
    given = [f"{target.upper()}=trainer hosvd", "GLUE_DIR=a", "TOKENIZER=b"]
    shown = subprocess.run(
        ["make", "-n", "-C", ROOT, target, *given],
        capture_output=True, text=True, check=True,
    ).stdout.replace("\\\n", "")  # fmt: skip
    assert 'scripts/speed.py trainer hosvd "glue_dir=a" "tokenizer=b"' in " ".join(shown.split())
    assert ("make bench is make speed now" in shown) == (target == "bench")


def test_promotes_help_names_runs_as_the_script_takes_them():
    named = re.search(r'^promote:.*RUNS="(.*?)"', MAKEFILE, flags=re.MULTILINE)
    assert named and "/" not in named[1]  # names and patterns, not paths


def test_editable_install_is_found_from_the_folder_that_a_clone_lies_in(tmp_path):
    """There `craft`, the clone, is a folder without __init__.py, which Python takes for a package
    unless a real one is on its path."""
    clone, site = tmp_path / "craft", tmp_path / "site"
    (clone / "craft").mkdir(parents=True)
    (clone / "craft" / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    build = "from hatchling.build import build_editable; import sys; "
    build += "build_editable(sys.argv[1])"
    site.mkdir()
    subprocess.run([sys.executable, "-c", build, site], cwd=clone, capture_output=True, check=True)
    (wheel,) = site.glob("*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    code = "import site, sys; site.addsitedir(sys.argv[1]); import craft; print(craft.__file__)"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, site], cwd=tmp_path, env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(clone / "craft" / "__init__.py")


def test_what_the_extra_for_slurm_installs_is_imported():
    sources = [*ROOT.glob("craft/**/*.py"), *ROOT.glob("scripts/**/*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    for wanted in map(Requirement, PROJECT["optional-dependencies"]["slurm"]):
        assert re.search(rf"^\s*(import|from) {wanted.name}\b", text, flags=re.MULTILINE), wanted
