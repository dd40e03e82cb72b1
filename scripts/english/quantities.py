"""Rules of inference over words: numbers, quantifiers, kinds, states, comparisons, coordination.

A rule makes a premise and a hypothesis for any of the three labels. Negation occurs under each of
them, though, as in GLUE, more often in what is contradicted.
"""

from dataclasses import replace

from english.dice import Dice
from english.grammar import NP, active, event, predicate
from english.inflection import plural
from english.lexicon import NUMBERS, QUALITIES, STATES, Noun, Scene, scene_of

ENTAILED, OPEN, CONTRADICTED = 0, 1, 2
Pair = tuple[str, str]
Scenes = tuple[Scene, ...]

# Premise > hypothesis, with less < n < more.
COUNTS = {
    ENTAILED: """{n} > at least {less}, exactly {n} > more than {less}, {n} > several,
        exactly {n} > fewer than {more}, at least {n} > more than {less},
        fewer than {n} > fewer than {more}""",
    OPEN: """at least {n} > exactly {n}, at least {n} > more than {more}, several > exactly {n},
        more than {less} > exactly {n}, fewer than {more} > at least {n},
        more than {less} > fewer than {more}""",
    CONTRADICTED: """exactly {n} > more than {more}, exactly {n} > exactly {less},
        {n} > only {less}, fewer than {n} > at least {more}, fewer than {n} > more than {more},
        only {n} > at least {more}""",
}
QUANTIFIERS = {
    ENTAILED: "all > some, most > some, all > most, none > not all, none > not one",
    OPEN: "some > all, most > all, not all > none, some > most, not all > not one",
    CONTRADICTED: "all > none, none > some, most > not one, all > not all, not one > most",
}
DEGREES = (
    ("taller", "shorter", "tall"),
    ("older", "younger", "old"),
    ("richer", "poorer", "rich"),
    ("faster", "slower", "fast"),
    ("stronger", "weaker", "strong"),
    ("louder", "quieter", "loud"),
)


def steps(table: dict[int, str], dice: Dice, label: int) -> list[str]:
    return dice.pick(" ".join(table[label].split()).split(", ")).split(" > ")


def numbers(dice: Dice, label: int, scenes: Scenes) -> Pair:
    told = event(dice, scenes, bare=True)
    n = dice.between(4, 9)
    less, more = dice.between(2, n - 2), dice.between(n + 2, 12)
    words = {"less": NUMBERS[less], "n": NUMBERS[n], "more": NUMBERS[more]}
    done = f"{plural(told.agent.noun.names[0])} {predicate(told)}"
    premise, hypothesis = steps(COUNTS, dice, label)
    return f"{premise.format(**words)} {done}", f"{hypothesis.format(**words)} {done}"


def quantifiers(dice: Dice, label: int, scenes: Scenes) -> Pair:
    told = event(dice, scenes, bare=True)
    done = f"of the {plural(told.agent.noun.names[0])} {predicate(told)}"
    premise, hypothesis = steps(QUANTIFIERS, dice, label)
    return f"{premise} {done}", f"{hypothesis} {done}"


def general(part: NP) -> NP:
    """The noun phrase one step up: `a tall surgeon` -> `a doctor`."""
    return replace(part, noun=Noun((part.noun.hypernym,), part.noun.hypernym, ""), quality=())


def hypernyms(dice: Dice, label: int, scenes: Scenes) -> Pair:
    """What a surgeon does a doctor does; what no doctor does no surgeon does."""
    low = event(dice, scenes, "thing", bare=True)
    low = replace(low, agent=NP(low.agent.noun, "a"), patient=replace(low.patient, determiner="a"))
    high = replace(low, patient=general(low.patient))
    no_low, no_high = (
        active(replace(told, agent=NP(low.agent.noun, "no"))) for told in (low, high)
    )
    if dice.chance(0.5):
        high = replace(high, agent=general(low.agent))
    some_low, some_high = active(low), active(high)
    return dice.pick(
        {
            ENTAILED: ((some_low, some_high), (no_high, no_low)),
            OPEN: ((some_high, some_low), (no_low, no_high)),
            CONTRADICTED: ((some_low, no_high), (no_high, some_low)),
        }[label]
    )


def states(dice: Dice, label: int, scenes: Scenes) -> Pair:
    """What is empty is not full, and may be clean."""
    scene = dice.pick(scenes)
    noun = dice.pick([noun for noun in scene.people + scene.things if noun.kind in STATES])
    pair, other = dice.several(STATES[noun.kind], 2)
    state, opposite = dice.shuffled(pair)
    said = [name for names in STATES[noun.kind] for name in names]
    quality = dice.pick([names[0] for names in QUALITIES[noun.kind] if names[0] not in said])
    no = dice.pick(("", "not "))
    hypothesis = {
        ENTAILED: opposite if no else state,
        OPEN: dice.pick(other),
        CONTRADICTED: state if no else opposite,
    }[label]
    name = noun.names[0]
    return f"the {quality} {name} was {state}", f"the {name} was {no}{hypothesis}"


def comparisons(dice: Dice, label: int, scenes: Scenes) -> Pair:
    a, b, c = (f"the {noun.names[0]}" for noun in dice.several(dice.pick(scenes).people, 3))
    more, less, plain = dice.pick(DEGREES)
    after = {
        ENTAILED: (f"{b} was {less} than {a}", f"{b} was not as {plain} as {a}"),
        OPEN: (
            f"{c} was {more} than {b}",
            f"{a} was not {more} than {c}",
            f"{b} was very {plain}",
            f"{b} was not {plain}",
        ),
        CONTRADICTED: (
            f"{b} was {more} than {a}",
            f"{a} was {less} than {b}",
            f"{a} was not as {plain} as {b}",
        ),
    }
    return f"{a} was {more} than {b}", dice.pick(after[label])


def coordination(dice: Dice, label: int, scenes: Scenes) -> Pair:
    """And, or, neither."""
    told = event(dice, scenes, bare=True)
    others = [noun for noun in scene_of(told.agent.noun).people if noun not in told.nouns]
    a, b = f"the {told.agent.noun.names[0]}", f"the {dice.pick(others).names[0]}"
    done, undone = predicate(told), f"did not {predicate(told, 'base')}"
    both, either, neither = (
        f"both {a} and {b} {done}",
        f"either {a} or {b} {done}",
        f"neither {a} nor {b} {done}",
    )
    only, who = f"{a} {done}, but {b} did not", dice.pick((a, b))
    did, did_not = f"{who} {done}", f"{who} {undone}"
    return dice.pick(
        {
            ENTAILED: ((both, did), (neither, did_not), (only, f"{b} {undone}")),
            OPEN: ((either, did), (either, did_not), (f"{a} {done}", f"{b} {done}")),
            CONTRADICTED: ((both, did_not), (neither, did), (only, f"{b} {done}")),
        }[label]
    )
