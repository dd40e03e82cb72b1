"""The forms of English words: plurals, verb forms, the article."""

import re
from functools import cache

IRREGULAR_PLURALS = {
    singular: irregular
    for singular, irregular in (
        pair.split()
        for pair in """sheep sheep, deer deer, goose geese, mouse mice, person people, calf calves,
        wolf wolves, thief thieves, bookshelf bookshelves, thesis theses""".split(",")
    )
}
IRREGULAR_VERBS = {  # base: (past, participle)
    base: (past, participle)
    for base, past, participle in (
        forms.split()
        for forms in """buy bought bought, sell sold sold, steal stole stolen, find found found,
        eat ate eaten, read read read, write wrote written, hide hid hidden, tear tore torn,
        rip ripped ripped, feed fed fed, catch caught caught, cut cut cut, chop chopped chopped,
        trim trimmed trimmed, drive drove driven, sink sank sunk, build built built,
        wear wore worn, sew sewed sewn, lose lost lost, shut shut shut, break broke broken,
        hug hugged hugged, sleep slept slept, leave left left, sing sang sung, weep wept wept,
        trip tripped tripped, kneel knelt knelt, give gave given, send sent sent,
        show showed shown, lend lent lent""".split(",")
    )
}
DOUBLED = ("cut", "rip", "chop", "trim", "hug", "trip", "shut")  # t -> tt before -ing
SIBILANTS = ("s", "x", "z", "ch", "sh")
FORMS = ("base", "third", "past", "participle", "gerund")


@cache
def plural(name: str) -> str:
    """`apple tree` -> `apple trees`, `piece of furniture` -> `pieces of furniture`."""
    head, of, rest = name.partition(" of ")
    first, space, last = head.rpartition(" ")
    if last in IRREGULAR_PLURALS:
        last = IRREGULAR_PLURALS[last]
    elif last.endswith("man"):
        last = last.removesuffix("man") + "men"
    elif last.endswith(SIBILANTS):
        last += "es"
    elif ends_in_y(last):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return first + space + last + of + rest


@cache
def inflect(verb: str, form: str) -> str:
    """A verb, perhaps with a particle (`switch on`), in one of FORMS."""
    if form not in FORMS:
        raise ValueError(f"unknown verb form {form!r}; known: {', '.join(FORMS)}")
    base, space, particle = verb.partition(" ")
    if form == "third":
        ending = "es" if base.endswith(SIBILANTS) else "s"
        base = base[:-1] + "ies" if ends_in_y(base) else base + ending
    elif form == "gerund":
        stem = base + base[-1] if base in DOUBLED else base
        base = stem.removesuffix("e") + "ing"
    elif form != "base" and base in IRREGULAR_VERBS:
        base = IRREGULAR_VERBS[base][form == "participle"]
    elif form != "base":
        base = base[:-1] + "ied" if ends_in_y(base) else base.removesuffix("e") + "ed"
    return base + space + particle


def ends_in_y(word: str) -> bool:
    """Whether the y becomes i before an ending."""
    return word.endswith("y") and word[-2] not in "aeiou"


def article(phrase: str) -> str:
    """The phrase with `a` or `an`; the lexicon has no word like `hour` or `unit`."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def with_articles(text: str) -> str:
    """The text with each `a(n)` settled by the word after it."""
    return re.sub(r"\ba\(n\) (\w)", lambda match: article(match[1]), text)


def sentence(text: str) -> str:
    """The text with a capital, and a full stop unless it ends otherwise."""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")
