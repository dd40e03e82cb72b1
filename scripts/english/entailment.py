"""MNLI: does the premise entail the hypothesis (0), leave it open (1) or contradict it (2)?"""

from collections.abc import Callable
from dataclasses import replace

from english import quantities
from english.dice import Dice
from english.grammar import Event, active, event, passive, places, predicate
from english.inflection import inflect, sentence
from english.lexicon import ACTIVITIES, MATCHED, TIMES, scene_of
from english.quantities import CONTRADICTED, ENTAILED, OPEN, Pair, Scenes

# What a main verb says about the rest: it happened (+), it did not (-), or nothing (?).
IMPLICATIVES = {
    "+": """managed to, remembered to, was forced to, did not fail to, did not forget to,
        was quick to""",
    "-": "failed to, forgot to, refused to, was too tired to, did not manage to, was unable to",
    "?": """wanted to, planned to, hoped to, promised to, was asked to, did not want to,
        was expected to""",
}
REPORTS = {
    "+": """knew that, noticed that, was glad that, forgot that, did not know that,
        regretted that""",
    "-": """pretended that, falsely claimed that, wrongly believed that, only dreamed that,
        lied that""",
    "?": "said that, believed that, hoped that, did not say that, was told that, suspected that",
}


def situated(dice: Dice, told: Event) -> Event:
    """The event with a place or a time."""
    if dice.chance(0.5):
        return replace(told, time=dice.pick(TIMES))
    return replace(told, place=dice.pick(places(scene_of(told.agent.noun), told.nouns)))


def denied(told: Event) -> Event:
    return replace(told, negated=True)


def circumstances(dice: Dice, label: int, scenes: Scenes) -> Pair:
    """Places and times can be dropped from what happened, and added to what did not."""
    told = event(dice, scenes, bare=True)
    there = situated(dice, told)
    did, did_there, did_not, did_not_there = (
        active(each) for each in (told, there, denied(told), denied(there))
    )
    return dice.pick(
        {
            ENTAILED: ((did_there, did), (did_there, did), (did_not, did_not_there)),
            OPEN: ((did, did_there), (did, did_there), (did_not_there, did_not)),
            CONTRADICTED: ((did_there, did_not), (did_not, did_there), (did_there, did_not_there)),
        }[label]
    )


def signed(table: dict[str, str], dice: Dice, label: int) -> tuple[str, bool]:
    """A main verb, and whether the hypothesis is positive, that make the label together."""
    positive = dice.chance({ENTAILED: 0.7, OPEN: 0.5, CONTRADICTED: 0.3}[label])
    sign = "?" if label == OPEN else "+" if positive == (label == ENTAILED) else "-"
    return dice.pick(" ".join(table[sign].split()).split(", ")), positive


def implicatives(dice: Dice, label: int, scenes: Scenes) -> Pair:
    """Who managed to do it did it; who refused to did not."""
    told = event(dice, scenes, bare=True)
    main, positive = signed(IMPLICATIVES, dice, label)
    premise = f"{told.agent} {main} {predicate(told, 'base')}"
    return premise, active(told if positive else denied(told))


def reports(dice: Dice, label: int, scenes: Scenes) -> Pair:
    """What is known is true; what is said may be."""
    told = event(dice, scenes, bare=True)
    witness = dice.pick([noun for noun in dice.pick(scenes).people if noun not in told.nouns])
    main, positive = signed(REPORTS, dice, label)
    premise = f"the {witness.names[0]} {main} {active(told)}"
    return premise, active(told if positive else denied(told))


def roles(dice: Dice, label: int, scenes: Scenes) -> Pair:
    """The passive says the same, exchanged roles something else."""
    told = situated(dice, event(dice, scenes, "person", bare=True))
    turned = replace(told, agent=told.patient, patient=told.agent)
    again = replace(told, verb_name=1)
    return dice.pick(
        {
            ENTAILED: (
                (active(told), passive(again)),
                (passive(told), active(again)),
                (active(denied(told)), passive(denied(again))),
            ),
            OPEN: (
                (active(told), active(turned)),
                (active(told), passive(turned)),
                (active(told), active(denied(turned))),
            ),
            CONTRADICTED: (
                (active(told), passive(denied(again))),
                (passive(told), active(denied(again))),
                (active(denied(told)), passive(again)),
            ),
        }[label]
    )


def sequence(dice: Dice, label: int, scenes: Scenes) -> Pair:
    """Before and after."""
    a, b = (f"the {noun.names[0]}" for noun in dice.several(dice.pick(scenes).people, 2))
    first, second = (inflect(verb.names[0], "past") for verb in dice.several(ACTIVITIES, 2))
    one, two = f"{a} {first}", f"{b} {second}"
    premise = dice.pick((f"{one} before {two}", f"{two} after {one}"))
    after = {
        ENTAILED: (f"{one} before {two}", f"{two} after {one}", f"before {two}, {one}"),
        OPEN: (
            f"{a} {second} before {b} {first}",
            f"{b} {first} after {a} {second}",
            f"{b} {first}",
        ),
        CONTRADICTED: (f"{two} before {one}", f"{one} after {two}", f"before {one}, {two}"),
    }
    return premise, dice.pick([hypothesis for hypothesis in after[label] if hypothesis != premise])


RULES: tuple[Callable[[Dice, int, Scenes], Pair], ...] = (
    *(circumstances, circumstances, implicatives, reports, roles, sequence),
    *(quantities.numbers, quantities.quantifiers, quantities.hypernyms),
    *(quantities.states, quantities.comparisons, quantities.coordination),
)


def mnli(dice: Dice, label: int, scenes: Scenes = MATCHED) -> Pair:
    premise, hypothesis = dice.pick(RULES)(dice, label, scenes)
    return sentence(premise), sentence(hypothesis)
