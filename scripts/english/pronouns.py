"""WNLI: whom does the pronoun mean?"""

from dataclasses import dataclass

from english.dice import Dice
from english.inflection import sentence
from english.lexicon import MEN, WOMEN
from english.templates import lines

# A start with the candidates {a} and {b} and the pronoun {p}, endings that are true of a, endings
# that are true of b, and for things also the pairs that a and b can be.
PEOPLE_TABLE = """
{a} thanked {b} because {p}: had received good advice, had been given a lift
    / had been so helpful, had offered to pay for dinner
{a} could not lift {b} because {p}: was too weak, had hurt one arm
    / was too heavy, weighed too much
{a} lent {b} some money because {p}: was a generous person, could spare it
    / was out of work, could not pay the rent
{a} beat {b} at chess because {p}: had trained all year, saw every threat in time
    / made a foolish mistake, lost the queen early
{a} asked {b} for help because {p}: could not solve the puzzle, was in trouble
    / knew a lot about computers, was known to be kind
{a} envied {b} because {p}: had failed the exam, had never had any luck
    / had won the lottery, was always successful
{a} hired {b} because {p}: needed a good gardener, was looking for a driver
    / had excellent references, was the best of the applicants
{a} apologized to {b} because {p}: had broken the window, had forgotten the appointment
    / had been treated badly, had been left waiting in the rain
{a} followed {b} through the forest because {p}: did not know the way, had no map
    / knew the way, had been there before
{a} paid {b} after {p}: had received the bill, had collected the repaired car
    / had fixed the roof, had sent the bill
{a} visited {b} in the hospital because {p}: was a loyal friend, wanted to bring some flowers
    / had broken a leg, was recovering from surgery
{a} scolded {b} because {p}: was in a bad mood, had lost all patience
    / had spilled the milk, had come home late again
{a} gave {b} the umbrella because {p}: was going to stay at home, did not need it any more
    / had to walk in the rain, was getting wet
{a} waved to {b}, but {p}: got no answer, was too far away to be seen
    / did not wave back, looked away
{a} called {b}, but {p}: got only a busy tone, had the wrong number
    / did not answer the phone, was not at home
{a} taught {b} to swim, and {p}: was a patient teacher, charged nothing for it
    / learned very quickly, was a good student
"""
THINGS_TABLE = """
{a} does not fit into {b} because it: is too large, is too wide / is too small, is too narrow
    / trophy + suitcase, piano + elevator, sofa + van, mirror + closet, cello + locker
{a} fell through {b} because it: was too heavy, was made of iron / was too thin, was rotten
    / ball + table, statue + floor, anvil + shelf, stone + roof
{a} hides {b} from view because it: is so tall, is standing in front / is so low, is standing behind
    / tower + church, hotel + school, oak + cottage, wall + garden
{a} raced past {b} because it: was going so fast, was late / was going so slowly, had broken down
    / train + truck, taxi + bus, motorcycle + tractor, ferry + barge
{a} scratched {b} because it: was so sharp, had a rough edge / was so soft, had no protection
    / knife + table, key + car door, nail + leather bag, skate + floor
{a} can be seen from {b} because it: is brightly lit, is so large / is high up, has large windows
    / lighthouse + office, bridge + apartment, castle + cabin, stadium + restaurant
"""
LOOKS = "old new red green blue brown gray white black yellow shiny famous".split()


@dataclass(frozen=True)
class Schema:
    start: str
    endings: tuple[list[str], list[str]]  # true of a, true of b
    things: list[str]


def schema(line: str) -> Schema:
    start, rest = line.split(": ")
    of_a, of_b, *things = (part.split(", ") for part in rest.split(" / "))
    return Schema(start, (of_a, of_b), things[0] if things else [])


PEOPLE = tuple(map(schema, lines(PEOPLE_TABLE)))
THINGS = tuple(map(schema, lines(THINGS_TABLE)))


def wnli(dice: Dice, label: int) -> tuple[str, str]:
    """The sentence, and its ending said of the right candidate (1) or of the other one (0)."""
    right, women = dice.below(2), [dice.chance(0.5)] * 2
    if dice.chance(0.75):
        asked = dice.pick(PEOPLE)
        if dice.chance(0.6):  # a woman and a man: the pronoun alone decides
            women = dice.shuffled((True, False))
        names = dice.several(MEN, 2), dice.several(WOMEN, 2)
        candidates = [names[woman][i] for i, woman in enumerate(women)]
    else:
        asked = dice.pick(THINGS)
        pair = dice.pick(asked.things).split(" + ")
        candidates = [f"the {dice.pick(LOOKS)} {thing}" for thing in pair]
    ending = dice.pick(asked.endings[right])
    a, b = candidates
    start = asked.start.format(a=a, b=b, p="she" if women[right] else "he")
    named = candidates[right if label else 1 - right]
    return sentence(f"{start} {ending}"), sentence(f"{named} {ending}")
