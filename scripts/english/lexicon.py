"""The lexicon of mini-GLUE: the word lists as nouns, verbs, adjectives and scenes."""

from dataclasses import dataclass
from functools import cache

from english import words

Names = tuple[str, ...]  # a word or phrase and its synonyms, the usual one first


@dataclass(frozen=True)
class Noun:
    """A countable noun, what every such thing is, and its class, which verbs select."""

    names: Names
    hypernym: str
    kind: str


@dataclass(frozen=True)
class Verb:
    """A verb and the kinds of noun that its object can be."""

    names: Names
    objects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """Who acts there, on what, and where."""

    people: tuple[Noun, ...]
    things: tuple[Noun, ...]
    places: tuple[Names, ...]


def names(entry: str) -> Names:
    """`a = b` -> ("a", "b")."""
    return tuple(name.strip() for name in entry.split("="))


def rows(table: str) -> list[tuple[list[str], list[str]]]:
    """The lines `kind kind: entry, entry` of a table, as (kinds, entries)."""
    lines = [line.split(": ") for line in table.strip().replace("\n    ", " ").splitlines()]
    return [(head.split(), [entry.strip() for entry in tail.split(",")]) for head, tail in lines]


def slots(table: str) -> dict[str, tuple[Names, ...]]:
    """Kind -> the names of its entries."""
    return {kind: tuple(map(names, entries)) for kinds, entries in rows(table) for kind in kinds}


KINDS = {kinds[0]: entries[0] for kinds, entries in rows(words.KINDS)}


def noun(kind: str, entry: str) -> Noun:
    name, _, hypernym = entry.partition(" < ")
    return Noun(names(name), hypernym or KINDS[kind], kind)


def scene(paragraph: str) -> Scene:
    lines = {kinds[0]: entries for kinds, entries in rows(paragraph)}
    places = tuple(map(names, lines.pop("place")))
    people = tuple(noun("person", entry) for entry in lines.pop("person"))
    things = tuple(noun(kind, entry) for kind, entries in lines.items() for entry in entries)
    return Scene(people, things, places)


def verbs(table: str) -> tuple[Verb, ...]:
    return tuple(
        Verb(names(entry), tuple(kinds)) for kinds, entries in rows(table) for entry in entries
    )


MATCHED = tuple(map(scene, words.MATCHED_SCENES.split("\n\n")))
MISMATCHED = tuple(map(scene, words.MISMATCHED_SCENES.split("\n\n")))
EVERYWHERE = MATCHED + MISMATCHED
ACTIONS = verbs(words.TRANSITIVE)
TRANSFERS = verbs(words.DITRANSITIVE)
ACTIVITIES = verbs(": " + words.INTRANSITIVE.strip(": \n"))
QUALITIES = slots(words.ADJECTIVES)
STATES = slots(words.STATES)
TIMES = tuple(map(names, rows(words.TIMES.strip())[0][1]))
NUMBERS = words.NUMBERS.split()
WOMEN = words.WOMEN.split()
MEN = words.MEN.split()
SURNAMES = words.SURNAMES.split()
CITIES = words.CITIES.split()


@cache
def actions(kind: str) -> tuple[Verb, ...]:
    """The verbs that take a noun of this kind as their object."""
    return tuple(verb for verb in ACTIONS if kind in verb.objects)


@cache
def scene_of(person: Noun) -> Scene:
    return next(scene for scene in EVERYWHERE if person in scene.people)
