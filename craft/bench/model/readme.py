"""An encoder's card: what the README.md beside its weights says of its name and licence."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
NO_HEADING = re.compile(r"<!--.*?-->|^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#[ \t]+(.+?)[ \t#]*$", re.MULTILINE)
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
TAG = re.compile(r"<[^>]+>")
TITLE = re.compile(r"^model[ \t]+card\b([ \t]*(:|for|of)[ \t]*)?", re.IGNORECASE)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LONGEST = 64  # what is longer is a sentence


@dataclass(frozen=True)
class Card:
    """A model's name and licence, None where the card does not say."""

    name: str | None
    licence: str | None


def read_card(folder: Path) -> Card:
    """The card of a folder with weights.

    The name is `model_name`, or the first `name` of `model-index`, of the YAML at its head, or else
    its first heading of level one."""
    path = folder / "README.md"
    if not path.is_file():
        return Card(None, None)
    text = path.read_text(encoding="utf-8", errors="replace")
    found = FRONT_MATTER.match(text)
    facts = _yaml(found[1]) if found else {}
    index = facts.get("model-index")
    first = index[0] if isinstance(index, list) and index else None
    listed = first.get("name") if isinstance(first, dict) else None
    heading = HEADING.search(NO_HEADING.sub("", text[found.end() if found else 0 :]))
    titles = (facts.get("model_name"), listed, TITLE.sub("", _plain(heading[1])) if heading else "")
    licence = facts.get("license")
    return Card(
        name=next((name for title in titles if title and (name := as_name(str(title)))), None),
        licence=", ".join(map(str, licence)) if isinstance(licence, list) else licence,
    )


def as_name(title: str) -> str | None:
    """A title as a name that may stand in a file's; None where nothing or too much is left."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-._")
    return name if 0 < len(name) <= LONGEST else None


def _plain(heading: str) -> str:
    return TAG.sub("", LINK.sub(r"\1", heading)).strip()


def _yaml(text: str) -> dict[str, Any]:
    try:
        facts = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return facts if isinstance(facts, dict) else {}
