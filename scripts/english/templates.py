"""Templates: sentences with slots in braces, and the tables that hold them."""

import re
from collections.abc import Callable

from english.dice import Dice
from english.inflection import with_articles


def fill(dice: Dice, template: str, draw: Callable[[str], str]) -> str:
    """The template with each `{slot}` drawn once, `{one|two}` picked, and `a(n)` settled."""
    drawn: dict[str, str] = {}

    def value(match: re.Match[str]) -> str:
        slot = match[1]
        if "|" in slot:
            return dice.pick(slot.split("|"))
        if slot not in drawn:
            drawn[slot] = draw(slot)
        return drawn[slot]

    return with_articles(" ".join(re.sub(r"\{([^{}]+)\}", value, template).split()))


def lines(table: str) -> list[str]:
    """The lines of a table; one that begins with four spaces goes on from the line before."""
    return table.strip().replace("\n    ", " ").splitlines()


def marked(table: str, marks: str) -> dict[str, dict[str, list[str]]]:
    """Paragraph name -> mark -> its templates.

    A paragraph begins with `name: what it is about`; then each line is `mark template`.
    """
    paragraphs = {}
    for paragraph in table.strip().split("\n\n"):
        head, *body = lines(paragraph)
        paragraphs[head.partition(":")[0]] = {
            mark: [line[2:] for line in body if line[0] == mark] for mark in marks
        }
    return paragraphs
