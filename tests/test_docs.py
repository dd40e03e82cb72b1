"""What the pages name is there: files, functions in them, links, commands and make's targets."""

import ast
import re
from pathlib import Path

import pytest

from craft.bench.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
FOLDERS = "craft|configs|scripts|results|tests|docs|notebooks|\\.ci"

PATH = re.compile(rf"(?<![\w./-])(?:{FOLDERS})/[\w./*-]*")  # up to a <placeholder>
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")
PLACE = re.compile(r"`([\w./-]+\.py):([\w.]+)`")
COMMAND = re.compile(r"(?:^|`)craft ([a-z]+)", re.MULTILINE)
TARGET = re.compile(r"(?:^|`)make ([a-z0-9-]+)", re.MULTILINE)


def missing_paths(text: str, folder: Path = ROOT) -> list[str]:
    """Paths of the checkout, and links from a page in `folder`, that lead nowhere."""
    named = {found.rstrip(".") for found in PATH.findall(text)}
    lost = {path for path in named if not any(ROOT.glob(path.rstrip("/")))}
    return sorted(lost | {link for link in LINK.findall(text) if not (folder / link).exists()})


def missing_places(text: str) -> list[str]:
    """`path:name` whose file does not define the name, or the class its member."""
    return [f"{p}:{n}" for p, n in PLACE.findall(text) if not _defines(ROOT / p, n.split("."))]


def _defines(path: Path, name: list[str]) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    for part in name:
        found = [node for node in body if part in _names(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert PATH.findall(text)
    assert missing_paths(text, (ROOT / page).parent) == []
    assert missing_places(text) == []


def test_the_walks_name_every_place():
    """So that the check of places sees something, and each walk has no more than one detour."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walks = [part for part in text.split("\n## ") if part.startswith("A ")]
    assert len(walks) == 3
    for walk in walks:
        assert len(PLACE.findall(walk)) > 8 and walk.count("**Detour:**") <= 1


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_targets_of_a_page_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([a-z0-9-]+):.*## ", makefile, re.MULTILINE))
    assert set(COMMAND.findall(text)) <= set(COMMANDS)
    assert set(TARGET.findall(text)) <= listed - {"bench"}  # which only says its new name


@pytest.mark.parametrize(
    "text",
    [
        "`craft/glue/`",
        "see craft/models.py.",
        "[it](docs/nowhere.md)",
        "`configs/methods/<name>.yaml`",
    ],
)
def test_a_path_that_is_not_there_is_seen(text):
    assert missing_paths(text) and not missing_paths("`configs/method/<name>.yaml`, `craft/`")


@pytest.mark.parametrize("name", ["SandwichModel.gone", "gone", "SandwichModel.build.gone"])
def test_a_name_that_is_not_there_is_seen(name):
    path = "craft/tuners/sandwich/model.py"
    assert missing_places(f"`{path}:{name}`") == [f"{path}:{name}"]
    assert not missing_places(f"`{path}:SandwichModel.build`")
