"""RTE: does the hypothesis follow from a short passage (0) or not (1)?"""

from collections.abc import Callable
from dataclasses import replace

from english.dice import Dice
from english.entailment import circumstances, implicatives, reports, roles
from english.grammar import active, event, passive, predicate, verb
from english.inflection import article, sentence
from english.lexicon import CITIES, EVERYWHERE, MEN, SURNAMES, TIMES, WOMEN
from english.paraphrase import changed, denied, other_agent, other_time
from english.quantities import CONTRADICTED, ENTAILED, OPEN, Pair, comparisons, states
from english.questions import TOPICS

GOODS = [
    noun
    for scene in EVERYWHERE
    for noun in scene.things
    if noun.kind not in ("food", "plant", "building")
]


def full_name(dice: Dice) -> str:
    return f"{dice.pick(WOMEN + MEN)} {dice.pick(SURNAMES)}"


def apposition(dice: Dice, label: int) -> Pair:
    """What somebody is stands between commas."""
    job, other = (names[0] for names in dice.several(TOPICS["job"], 2))
    city, elsewhere = dice.several(CITIES, 2)
    name, done = full_name(dice), predicate(event(dice))
    said = (job, city) if label == 0 else (other, elsewhere)
    hypotheses = (
        f"{name} is {article(said[0])}",
        f"{article(said[0])} {done}",
        f"{name} comes from {said[1]}",
    )
    return f"{name}, {article(job)} from {city}, {done}", dice.pick(hypotheses)


def attachment(dice: Dice, label: int) -> Pair:
    """Who did it: the head of the relative clause, not the noun next to the verb."""
    scenes = (dice.pick(EVERYWHERE),)
    met, done = event(dice, scenes, "person", bare=True), predicate(event(dice, scenes, "thing"))
    head, neighbor, met_before = met.agent, met.patient, verb(met, "participle")
    passage = f"{head}, who had {met_before} {neighbor}, {done}"
    if dice.chance(0.5):
        head, neighbor = met.patient, met.agent
        passage = f"{head}, whom {neighbor} had {met_before}, {done}"
    return passage, f"{neighbor if label else head} {done}"


def trade(dice: Dice, label: int) -> Pair:
    """Buying and selling are one event seen from two sides."""
    a, b, year = full_name(dice), full_name(dice), dice.between(1950, 2015)
    thing = article(dice.pick(GOODS).names[0])
    one, two = dice.shuffled((f"{a} bought {thing} from {b}", f"{b} sold {thing} to {a}"))
    end = dice.pick(
        ("for a high price", "for very little money", "at an auction", "after a long search")
    )
    right = (two, f"{two} in {year}", f"{a} got {thing} from {b}")
    wrong = (
        f"{b} bought {thing} from {a}",
        f"{a} sold {thing} to {b} in {year}",
        f"{two} in {year + dice.between(1, 9)}",
    )
    return f"in {year}, {one} {end}", dice.pick(wrong if label else right)


def perception(dice: Dice, label: int) -> Pair:
    """Who was seen to do it did it; who was kept from it or advised to did perhaps not."""
    told = event(dice, kind=dice.pick(("person", "thing")))
    witness = dice.pick(("the police", "a passerby", "a good friend", full_name(dice)))
    base, gerund = predicate(told, "base"), predicate(told, "gerund")
    seen = (
        f"saw {told.agent} {base}",
        f"caught {told.agent} {gerund}",
        f"made {told.agent} {base}",
    )
    kept = (
        f"prevented {told.agent} from {gerund}",
        f"advised {told.agent} to {base}",
        f"warned {told.agent} not to {base}",
    )
    return f"{witness} {dice.pick(kept if label else seen)}", active(told)


def retelling(dice: Dice, label: int) -> Pair:
    """The passive of the event, or of another one."""
    told = replace(event(dice), time=dice.pick(TIMES))
    other = changed(dice, told, (denied, other_agent, other_time)) if label else told
    return active(told), passive(replace(other, verb_name=1))


def inference(dice: Dice, label: int) -> Pair:
    """The rules of MNLI; what is open or contradicted does not follow."""
    fine = dice.pick((OPEN, CONTRADICTED)) if label else ENTAILED
    rule = dice.pick((circumstances, implicatives, reports, roles, states, comparisons))
    return rule(dice, fine, EVERYWHERE)


KINDS: tuple[Callable[[Dice, int], Pair], ...] = (
    *(apposition, attachment, trade, retelling),
    *(perception, perception, inference, inference, inference),
)


def rte(dice: Dice, label: int) -> Pair:
    """The passage may hold a second sentence that has nothing to do with the hypothesis."""
    passage, hypothesis = dice.pick(KINDS)(dice, label)
    told = [sentence(passage)]
    if dice.chance(0.3):
        told = dice.shuffled([*told, sentence(active(event(dice)))])
    return " ".join(told), sentence(hypothesis)
