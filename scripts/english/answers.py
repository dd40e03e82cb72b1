"""QNLI: does the sentence answer the question? Invented facts of invented places and people."""

from collections.abc import Callable
from dataclasses import dataclass

from english.dice import Dice
from english.inflection import sentence
from english.lexicon import CITIES, MEN, SURNAMES, WOMEN
from english.templates import lines

# Each paragraph is a kind of entity; each line one of its facts: the kind of value, two questions
# and two statements.
FACTS_TABLE = """
building
early year: When did {e} open? / In what year did {e} open to the public?
    / opened in {v} / was opened to the public in {v}
late year: When was {e} rebuilt? / In what year was {e} rebuilt?
    / was rebuilt in {v} / was rebuilt from the ground up in {v}
late year: When was {e} damaged by fire? / In what year did {e} burn?
    / was badly damaged by a fire in {v} / caught fire in {v}
person: Who designed {e}? / Who was the architect of {e}?
    / was designed by {v} / is the work of the architect {v}
person: Who paid for {e}? / Who gave the money for {e}?
    / was paid for by {v} / was built with money from {v}
city: In which city is {e}? / Where is {e}? / stands in the center of {v} / is located in {v}
thousands: How many people visit {e} every year? / How many visitors does {e} have?
    / attracts {v} visitors a year / is visited by {v} people every year
tens: How tall is {e}? / What is the height of {e}?
    / is {v} meters tall / rises {v} meters above the street
material: What is {e} made of? / What material was used for {e}?
    / is made of {v} / is built mainly of {v}

person
early year: When was {e} born? / In what year was {e} born?
    / was born in {v} / came into the world in {v}
late year: When did {e} die? / In what year did {e} die? / died in {v} / passed away in {v}
city: Where was {e} born? / In which city was {e} born? / was born in {v} / is a native of {v}
city: Where did {e} study? / In which city did {e} go to university?
    / studied in {v} / went to university in {v}
person: Who taught {e}? / Who was the teacher of {e}? / was taught by {v} / was a student of {v}
person: Whom did {e} marry? / Who was {e} married to? / married {v} / was married to {v}
tens: How many novels did {e} write? / How many novels has {e} published?
    / wrote {v} novels / published {v} novels
subject: What subject did {e} teach? / What did {e} teach? / taught {v} / was a teacher of {v}
instrument: What instrument did {e} play? / Which instrument could {e} play?
    / played the {v} / was a master of the {v}

firm
early year: When was {e} founded? / In what year did {e} start?
    / was founded in {v} / started business in {v}
late year: When did {e} go bankrupt? / In what year did {e} fail? / went bankrupt in {v}
    / failed in {v}
person: Who founded {e}? / Who was the founder of {e}? / was founded by {v} / was the idea of {v}
person: Who bought {e}? / Who is the new owner of {e}?
    / was bought by {v} / was taken over by {v}
city: Where are the headquarters of {e}? / In which city is {e} based?
    / is based in {v} / has its headquarters in {v}
hundreds: How many people work for {e}? / How many employees does {e} have?
    / employs {v} people / has {v} employees
tens: How many shops does {e} own? / How many stores does {e} have? / owns {v} shops
    / runs {v} stores
product: What does {e} make? / What is the main product of {e}? / makes {v} / is known for its {v}

river
hundreds: How long is {e}? / What is the length of {e}?
    / is {v} kilometers long / has a length of {v} kilometers
tens: How many bridges cross {e}? / How many bridges are there over {e}?
    / is crossed by {v} bridges / has {v} bridges
tens: How deep is {e}? / What is the depth of {e}?
    / is {v} meters deep / reaches a depth of {v} meters
city: Which city lies on {e}? / Through which city does {e} flow? / flows through {v} / passes {v}
person: Who first mapped {e}? / Who drew the first map of {e}?
    / was first mapped by {v} / appears on a map drawn by {v}
late year: When did {e} last flood? / In what year was the last flood of {e}?
    / last flooded in {v} / had its last flood in {v}
month: When does {e} freeze? / In which month does {e} freeze?
    / freezes in {v} / is covered with ice in {v}
fish: What fish live in {e}? / Which fish can be found in {e}?
    / is full of {v} / is home to many {v}
"""
LISTS = {
    "material": "brick granite marble timber concrete glass".split(),
    "subject": "chemistry history music geometry botany Latin".split(),
    "instrument": "violin cello trumpet organ harp flute".split(),
    "product": "bicycles pianos watches toys raincoats umbrellas chocolates".split(),
    "month": "November December January February".split(),
    "fish": "trout salmon pike eels carp".split(),
    "city": CITIES,
}
VALUES: dict[str, Callable[[Dice], str]] = {
    "early year": lambda dice: str(dice.between(1780, 1870)),
    "late year": lambda dice: str(dice.between(1890, 2015)),
    "tens": lambda dice: str(dice.between(11, 99)),
    "hundreds": lambda dice: str(dice.between(12, 99) * 10),
    "thousands": lambda dice: f"{dice.between(2, 900)},000",
    "person": lambda dice: f"{dice.pick(WOMEN + MEN)} {dice.pick(SURNAMES)}",
}
ENTITIES = {
    "building": "Museum Library Tower Theater Hotel Palace Institute".split(),
    "firm": ("Brothers", "and Sons", "Industries", "Limited", "Works"),
    "river": ("River",),
}


@dataclass(frozen=True)
class Fact:
    """One thing to know of an entity {e}: how to ask for it, and how to state that it is {v}."""

    value: str
    questions: tuple[str, str]
    statements: tuple[str, str]


def fact(line: str) -> Fact:
    value, texts = line.split(": ")
    first, second, third, fourth = texts.split(" / ")
    return Fact(value, (first, second), (third, fourth))


FACTS = {
    kind: tuple(map(fact, body))
    for kind, *body in (lines(paragraph) for paragraph in FACTS_TABLE.strip().split("\n\n"))
}


def entity(dice: Dice, kind: str) -> str:
    if kind == "person":
        return VALUES["person"](dice)
    the = "" if kind == "firm" else "the "
    return f"{the}{dice.pick(SURNAMES)} {dice.pick(ENTITIES[kind])}"


def state(dice: Dice, fact: Fact) -> str:
    value = dice.pick(LISTS[fact.value]) if fact.value in LISTS else VALUES[fact.value](dice)
    return dice.pick(fact.statements).format(v=value)


def qnli(dice: Dice, label: int) -> tuple[str, str]:
    """Not entailed (1): other facts are told, or the asked fact of another entity, or a new topic.

    As in GLUE, long sentences answer more often, and sentences about two things less often.
    """
    kind = dice.pick(tuple(FACTS))
    name, other = entity(dice, kind), entity(dice, kind)
    asked, *rest = dice.several(FACTS[kind], 4)
    question = dice.pick(asked.questions).format(e=name)
    if label and dice.chance(0.3):
        kind = dice.other(tuple(FACTS), kind)
        name, rest = entity(dice, kind), dice.several(FACTS[kind], 3)
    elif name != other and dice.chance(0.6 if label else 0.2):
        mine, yours = (rest[0], asked) if label else (asked, rest[0])
        halves = dice.shuffled([f"{name} {state(dice, mine)}", f"{other} {state(dice, yours)}"])
        return question, sentence(dice.pick((", while ", ", but ", ", and ")).join(halves))
    long = dice.chance(0.25 if label else 0.75)
    facts = dice.shuffled([rest[0] if label else asked, rest[1], *rest[2 : 2 + long]])
    first, second, *third = (state(dice, fact) for fact in facts)
    if third:
        return question, sentence(f"{name} {first}, {second} and {third[0]}")
    who = "who" if kind == "person" else "which"
    return question, sentence(
        dice.pick((f"{name}, {who} {first}, {second}", f"{name} {first} and {second}"))
    )
