"""From meaning to English: noun phrases, events and the clauses that tell them."""

from dataclasses import dataclass, replace

from english import lexicon
from english.dice import Dice
from english.inflection import article, inflect, plural
from english.lexicon import Names, Noun, Scene, Verb


def join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def one(names: Names, index: int) -> str:
    """The index-th synonym, counted round, so that 1 means the other name where there is one."""
    return names[index % len(names)] if names else ""


@dataclass(frozen=True)
class NP:
    """A noun phrase; the determiner `a` agrees by itself, and a count of 0 is one thing."""

    noun: Noun
    determiner: str = "the"
    count: int = 0
    quality: Names = ()
    noun_name: int = 0  # which synonym of the noun
    quality_name: int = 0

    def __str__(self) -> str:
        head, quality = one(self.noun.names, self.noun_name), one(self.quality, self.quality_name)
        if self.count > 1:
            number = lexicon.NUMBERS[self.count]
            return join(self.determiner.removesuffix("a"), number, quality, plural(head))
        body = join(quality, head)
        return article(body) if self.determiner == "a" else join(self.determiner, body)


@dataclass(frozen=True)
class Event:
    """Who did what to whom, where and when: the units of meaning that the tasks vary or change."""

    agent: NP
    verb: Verb
    patient: NP
    recipient: NP | None = None
    place: Names = ()
    time: Names = ()
    negated: bool = False
    verb_name: int = 0  # which synonym of the verb
    circumstance_name: int = 0  # which synonym of place and time

    @property
    def nouns(self) -> list[Noun]:
        return [part.noun for part in (self.agent, self.patient, self.recipient) if part]

    @property
    def circumstances(self) -> str:
        return join(*(one(names, self.circumstance_name) for names in (self.place, self.time)))


def verb(told: Event, form: str) -> str:
    return inflect(one(told.verb.names, told.verb_name), form)


def predicate(told: Event, form: str = "past", double: bool = True) -> str:
    """The verb phrase: `gave the cook a menu` where double, or `gave a menu to the cook`."""
    objects = str(told.patient)
    if told.recipient and double:
        objects = f"{told.recipient} {objects}"
    elif told.recipient:
        objects = f"{objects} to {told.recipient}"
    return join(verb(told, form), objects, told.circumstances)


def active(told: Event, double: bool = True) -> str:
    if told.negated:
        return f"{told.agent} did not {predicate(told, 'base', double)}"
    return f"{told.agent} {predicate(told, 'past', double)}"


def passive(told: Event) -> str:
    be = join("were" if told.patient.count > 1 else "was", "not" if told.negated else "")
    to = f"to {told.recipient}" if told.recipient else ""
    done = verb(told, "participle")
    return join(str(told.patient), be, done, to, f"by {told.agent}", told.circumstances)


def fronted(told: Event) -> str:
    """The clause with its time in front."""
    return f"{one(told.time, told.circumstance_name)}, {active(replace(told, time=()))}"


def phrase(dice: Dice, noun: Noun, determiner: str = "the", plain: float = 0.6) -> NP:
    """A noun phrase of this noun, without an adjective in the share `plain` of cases."""
    quality = () if dice.chance(plain) else dice.pick(lexicon.QUALITIES[noun.kind])
    return NP(noun, determiner, quality=quality)


def places(scene: Scene, used: list[Noun]) -> list[Names]:
    """The places of a scene that repeat no noun of the clause (`guarded the gate at the gate`)."""
    taken = {name for noun in used for name in noun.names}
    return [place for place in scene.places if taken.isdisjoint(" ".join(place).split())]


def event(
    dice: Dice, scenes: tuple[Scene, ...] = lexicon.EVERYWHERE, kind: str = "", bare: bool = False
) -> Event:
    """A past event; `kind` is person, thing, transfer (who gave whom what) or empty for any.

    With a place and with a time in half of the cases each, or without where `bare`.
    """
    scene = dice.pick(scenes)
    kind = kind or dice.pick(("person", "thing", "thing", "transfer"))
    agent, other = dice.several(scene.people, 2)
    gifts = [thing for thing in scene.things if thing.kind in lexicon.TRANSFERS[0].objects]
    recipient = None
    if kind == "person":
        what, patient = dice.early(lexicon.actions("person")), phrase(dice, other)
    elif kind == "transfer" and gifts:
        what, recipient = dice.pick(lexicon.TRANSFERS), phrase(dice, other, plain=0.8)
        patient = phrase(dice, dice.pick(gifts), dice.pick(("the", "a")))
    else:
        thing = dice.pick(scene.things)
        what = dice.pick(lexicon.actions(thing.kind))
        patient = phrase(dice, thing, dice.pick(("the", "a")))
    told = Event(phrase(dice, agent), what, patient, recipient)
    where, when = dice.chance(0.5) and not bare, dice.chance(0.5) and not bare
    return replace(
        told,
        place=dice.pick(places(scene, told.nouns)) if where else (),
        time=dice.pick(lexicon.TIMES) if when else (),
    )
