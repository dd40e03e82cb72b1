"""MRPC and STS-B: how much of its meaning does an event keep when it is told again?"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from english import lexicon
from english.dice import Dice
from english.grammar import NP, Event, active, event, fronted, passive, places
from english.inflection import sentence
from english.lexicon import TIMES, scene_of

Change = Callable[[Dice, Event], Event | None]  # None where the event lacks what would change

# ---- the same in other words ---------------------------------------------------------------------


def reworded(dice: Dice, told: Event, share: float) -> Event:
    """The event with each word replaced by its synonym in the given share of cases."""

    def flip() -> int:
        return int(dice.chance(share))

    def other(part: NP) -> NP:
        return replace(part, noun_name=flip(), quality_name=flip())

    return replace(
        told,
        agent=other(told.agent),
        patient=other(told.patient),
        recipient=told.recipient and other(told.recipient),
        verb_name=flip(),
        circumstance_name=flip(),
    )


def retold(dice: Dice, told: Event, share: float = 0.5, front: float = 0.3) -> str:
    """The event with synonyms, in one of its voices and orders."""
    told = reworded(dice, told, share)
    if told.time and dice.chance(front):
        return fronted(told)
    if dice.chance(0.35):
        return passive(told)
    return active(told, double=dice.chance(0.5))


# ---- something else in similar words -------------------------------------------------------------


def neighbor(dice: Dice, told: Event, part: NP) -> NP | None:
    """The noun phrase with another noun of the same scene and class."""
    scene = scene_of(told.agent.noun)
    pool = [noun for noun in scene.people + scene.things if noun.kind == part.noun.kind]
    pool = [noun for noun in pool if noun not in told.nouns]
    return replace(part, noun=dice.pick(pool)) if pool else None


def other_agent(dice: Dice, told: Event) -> Event | None:
    agent = neighbor(dice, told, told.agent)
    return agent and replace(told, agent=agent)


def other_patient(dice: Dice, told: Event) -> Event | None:
    patient = neighbor(dice, told, told.patient)
    return patient and replace(told, patient=patient)


def other_verb(dice: Dice, told: Event) -> Event:
    verbs = lexicon.TRANSFERS if told.recipient else lexicon.actions(told.patient.noun.kind)
    return replace(told, verb=dice.other(verbs, told.verb))


def other_place(dice: Dice, told: Event) -> Event | None:
    if not told.place:
        return None
    return replace(
        told, place=dice.other(places(scene_of(told.agent.noun), told.nouns), told.place)
    )


def other_time(dice: Dice, told: Event) -> Event | None:
    return replace(told, time=dice.other(TIMES, told.time)) if told.time else None


def other_count(dice: Dice, told: Event) -> Event | None:
    for role in ("agent", "patient"):
        part: NP = getattr(told, role)
        if part.count:
            return replace(
                told, **{role: replace(part, count=dice.other(range(2, 13), part.count))}
            )
    return None


def other_quality(dice: Dice, told: Event) -> Event | None:
    for role in ("patient", "agent"):
        part: NP = getattr(told, role)
        if part.quality:
            quality = dice.other(lexicon.QUALITIES[part.noun.kind], part.quality)
            return replace(told, **{role: replace(part, quality=quality)})
    return None


def swapped(dice: Dice, told: Event) -> Event | None:
    """Agent and patient, or giver and receiver, change roles."""
    if told.recipient:
        return replace(told, agent=told.recipient, recipient=told.agent)
    if told.patient.noun.kind == "person":
        return replace(told, agent=told.patient, patient=told.agent)
    return None


def denied(dice: Dice, told: Event) -> Event:
    return replace(told, negated=not told.negated)


def changed(dice: Dice, told: Event, changes: Sequence[Change]) -> Event:
    """The event after one of those changes that are possible in it."""
    return dice.pick(changes)(dice, told) or changed(dice, told, changes)


def dated_event(dice: Dice) -> Event:
    """An event with its time and often with a number: there is something to change."""
    told = event(dice, kind=dice.pick(("person", "person", "thing", "transfer")))
    if dice.chance(0.5):
        role = dice.pick(("agent", "patient"))
        count = dice.between(2, 12)
        told = replace(told, **{role: replace(getattr(told, role), count=count)})
    return replace(told, time=told.time or dice.pick(TIMES))


# ---- the tasks -----------------------------------------------------------------------------------

CHANGES = (
    *(swapped, swapped, denied, denied, other_count),
    *(other_verb, other_patient, other_agent, other_place, other_time),
)
REPORTS = (
    ("{source} said that {news}", "according to {source}, {news}", "{news}, {source} said"),
    ("{source} told the press that {news}", "{news}, {source} told the press"),
    ("{source} confirmed that {news}", "as {source} confirmed, {news}"),
)
SOURCES = ("the police", "a witness", "a spokesman", "an official", "the local newspaper")


def mrpc(dice: Dice, label: int) -> tuple[str, str]:
    """Both sentences are retold; in the negative pairs one unit of the meaning has changed."""
    told = dated_event(dice)
    other = told if label else changed(dice, told, CHANGES)
    if dice.chance(0.6):
        return sentence(retold(dice, told, 0.2)), sentence(retold(dice, other))
    report, source = dice.pick(REPORTS), dice.pick(SOURCES)

    def reported(news: str) -> str:
        return sentence(dice.pick(report).format(source=source, news=news))

    return reported(retold(dice, told, 0.2, front=0)), reported(retold(dice, other, front=0))


# What a change costs on the scale of 0 to 5, in tenths: a circumstance less than a participant, and
# most of all what was done, who did it to whom, and whether it happened.
COSTS: dict[Change, int] = {
    other_quality: 5,
    other_time: 6,
    other_place: 6,
    other_count: 7,
    other_patient: 10,
    other_agent: 11,
    swapped: 13,
    other_verb: 14,
    denied: 16,
}
UNRELATED = 5


def stsb(dice: Dice, level: int) -> tuple[str, str, float]:
    """Two sentences that differ in `level` units of meaning, and 5 minus what these cost."""
    told, other, tenths = dated_event(dice), dated_event(dice), 0
    if level == UNRELATED:
        while scene_of(other.agent.noun) is scene_of(told.agent.noun) or other.verb is told.verb:
            other = dated_event(dice)
    else:
        other, tenths = told, 50
        for change in dice.shuffled(tuple(COSTS)):
            if level and (after := change(dice, other)):
                other, tenths, level = after, tenths - COSTS[change], level - 1
    first, second = (sentence(retold(dice, each)) for each in (told, other))
    return first, second, max(tenths, 0) / 10
