"""CoLA: is this sentence acceptable English?

Each paragraph is a phenomenon, with templates of acceptable (+) and unacceptable (*) sentences of
the same words.
"""

from english import lexicon
from english.dice import Dice
from english.grammar import phrase
from english.inflection import inflect, plural, sentence
from english.lexicon import Noun
from english.templates import fill, marked

# Slots: {person} and {other} of one scene, {people} and {others} their plurals, {near} either form
# of the other, {agent} the person with an adjective, {thing} and {things} (never an animal), {Q} an
# adjective of the thing; verbs in a form: V takes the thing as its object, S cannot do without an
# object, I takes none, J never takes any.
PHENOMENA = """
agreement: the verb agrees with its subject, not with the noun beside it
+ the {person} {next to|behind|with} the {near} {I.third} {habit}
+ the {people} {next to|behind|with} the {near} {I.base} {habit}
+ the {person} {next to|behind|with} the {near} is {always|never|often} {mood}
+ the {people} {next to|behind|with} the {near} are {always|never|often} {mood}
* the {person} {next to|behind|with} the {near} {I.base} {habit}
* the {people} {next to|behind|with} the {near} {I.third} {habit}
* the {person} {next to|behind|with} the {near} are {always|never|often} {mood}
* the {people} {next to|behind|with} the {near} is {always|never|often} {mood}

number: determiners that want one or several
+ {agent} {V.past} {each|another|this|that} {thing}
+ {agent} {V.past} {several|many|these|both|a few} {things}
* {agent} {V.past} {each|another|this|that} {things}
* {agent} {V.past} {several|many|these|both|a few} {thing}

order: determiner, adjective, noun; subject, verb, object
+ {agent} {V.past} the {Q} {thing} {when}
+ {agent} {V.past} the {Q} {thing}, and the {other} {I.past}
* {agent} {V.past} the {thing} {Q} {when}
* {agent} {V.past} {Q} the {thing} {when}
* {agent} the {Q} {thing} {V.past} {when}
* {V.past} {agent} the {Q} {thing} {when}

object: verbs that refuse an object, and verbs that need one
+ {agent} {J.past} {when}
+ {agent} {S.past} the {other}
* {agent} {J.past} the {other} {when}
* {agent} {S.past}

selection: only people laugh and hope
+ {agent} {laughed|whispered|complained|prayed|sneezed|yawned|apologized} {place}
+ {agent} {hoped|thought|promised} that the {other} would {I.base}
* the {Q} {thing} {laughed|whispered|complained|prayed|sneezed|yawned|apologized} {place}
* the {Q} {thing} {hoped|thought|promised} that the {other} would {I.base}

reflexive: agrees with the subject of its own clause
+ {woman} {R} herself in {medium}
+ {man} {R} himself in {medium}
+ {woman}'s {brother|uncle|son} {R} himself
+ {man}'s {sister|aunt|daughter} {R} herself
+ {woman} {said|knew|thought} that {man} {R} himself
+ {man} {said|knew|thought} that {woman} {R} herself
+ the {people} {R} themselves
* {woman} {R} himself in {medium}
* {man} {R} herself in {medium}
* {woman}'s {brother|uncle|son} {R} herself
* {man}'s {sister|aunt|daughter} {R} himself
* {woman} {said|knew|thought} that {man} {R} herself
* {man} {said|knew|thought} that {woman} {R} himself
* the {people} {R} {himself|herself}

auxiliary: asks for one form of the verb
+ {agent} {will|can|did not|must} {V.base} the {thing}
+ {agent} {has|had} {V.participle} the {thing}
+ {agent} is {V.gerund} the {thing}
* {agent} {will|can|did not|must} {V.past} the {thing}
* {agent} {will|can|did not|must} {V.third} the {thing}
* {agent} {has|had} {V.base} the {thing}
* {agent} {has|had} {V.gerund} the {thing}
* {agent} is {V.base} the {thing}

question: one gap, the auxiliary before the subject, no way out of an island
+ which {thing} did {agent} {V.base}?
+ which {thing} did {name} say that {agent} {V.past}?
+ who said that {agent} {V.past} the {thing}?
+ did {agent} {V.base} the {thing} before {name} arrived?
* which {thing} did {agent} {V.base} the {letter|chair|coat|book}?
* which {thing} {agent} did {V.base}?
* which {thing} did {name} meet the {person} who {V.past}?
* which {thing} did {name} smile because {agent} {V.past}?
* who did {name} say that {V.past} the {thing}?
* did {agent} {V.past} the {thing} before {name} arrived?

polarity: ever and any live under a negation
+ no {person} has ever {V.participle} the {thing}
+ {some|every|that|the} {person} has already {V.participle} the {thing}
+ {agent} did not {V.base} any {things}
+ {agent} {V.past} some {things}
* {some|every|that|the} {person} has ever {V.participle} the {thing}
* {agent} {V.past} any {things}

comparison: taller than, as tall as, more famous than
+ the {person} is {much|a little} {taller|older|younger|richer|stronger} than the {other}
+ the {person} is as {tall|old|young|rich|strong|famous} as the {other}
+ the {person} is {much|a little} more {famous|nervous|polite|careful} than the {other}
* the {person} is {much|a little} more {taller|older|younger|richer|stronger} than the {other}
* the {person} is as {taller|older|younger|richer|stronger} as the {other}
* the {person} is {much|a little} {tall|old|young|rich|famous|polite} than the {other}
* the {person} is as {tall|old|young|rich|strong|famous} than the {other}

voice: the passive has an auxiliary, a participle, and an object to promote
+ the {thing} was {V.participle} by {agent}
+ the {other} was {S.participle} by {agent}
* the {thing} was {V.base} by {agent}
* the {thing} was {V.gerund} by {agent}
* the {thing} {V.participle} by {agent}
* the {other} was {J.participle} by {agent}

existential: agrees with what follows, which is not known yet
+ there {is|was} a(n) {person} {place}
+ there {are|were} {three|many|several|no} {people} {place}
+ {every|each} {person} {is|was} {place}
* there {are|were} a(n) {person} {place}
* there {is|was} {three|many|several} {people} {place}
* there {is|was} {every|each} {person} {place}

relative: an empty gap, who for people and which for things
+ the {thing} {that|which} the {person} {V.past} {was new|was expensive|disappeared}
+ the {person} who {V.past} the {thing} {left early|is famous|was very tired}
+ the {person} {V.past} the {thing}, and it {was new|was expensive|disappeared}
* the {thing} {that|which} the {person} {V.past} it {was new|was expensive|disappeared}
* the {thing} who the {person} {V.past} {was new|was expensive|disappeared}
* the {person} which {V.past} the {thing} {left early|is famous|was very tired}
* the {person} who he {V.past} the {thing} {left early|is famous|was very tired}

dative: gave her a letter, but not explained her a letter
+ the {person} {gave|sent|showed|handed|offered} the {other} a(n) {gift} {when}
+ the {person} {gave|sent|showed|handed|offered} a(n) {gift} to the {other} {when}
+ the {person} {described|returned|delivered|mentioned} a(n) {gift} to the {other} {when}
* the {person} {described|returned|delivered|mentioned} the {other} a(n) {gift} {when}

coordination: both with and, either with or, neither with nor
+ both the {person} and the {other} {I.past} {when}
+ either the {person} or the {other} {I.past} {when}
+ neither the {person} nor the {other} {I.past} {when}
* both the {person} {or|nor} the {other} {I.past} {when}
* either the {person} {and|nor} the {other} {I.past} {when}
* neither the {person} {and|but} the {other} {I.past} {when}

complement: verbs that ask for to, for -ing, or for the bare verb
+ the {person} {wanted|decided|hoped|refused|agreed} to {I.base} {place}
+ the {person} {enjoyed|avoided|finished|kept} {I.gerund} {place}
+ the {person} {made|let|watched} the {other} {I.base} {place}
+ the {person} {forced|allowed|asked} the {other} to {I.base} {place}
* the {person} {wanted|decided|hoped|refused|agreed} {I.gerund} {place}
* the {person} {enjoyed|avoided|finished|kept} to {I.base} {place}
* the {person} {made|let|watched} the {other} to {I.base} {place}
* the {person} {forced|allowed|asked} the {other} {I.base} {place}

tense: fits the adverb
+ {yesterday|last week|two days ago}, {agent} {V.past} the {thing}
+ {tomorrow|next week|in two days}, {agent} will {V.base} the {thing}
+ {agent} {V.past} the {thing} {yesterday|last week|two days ago}
+ {agent} will {V.base} the {thing} {tomorrow|next week|in two days}
* {tomorrow|next week|in two days}, {agent} {V.past} the {thing}
* {yesterday|last week|two days ago}, {agent} will {V.base} the {thing}
* {agent} will {V.base} the {thing} {yesterday|last week|two days ago}
"""

TEMPLATES = marked(PHENOMENA, "+*")
COMMON = "comparison coordination complement dative auxiliary selection polarity".split()
DRAWN = (*TEMPLATES, *COMMON, *COMMON)  # the common ones three times as often
LISTS = {
    "S": "find avoid ignore recognize protect greet thank blame praise deceive rescue catch admire",
    "J": "sleep laugh smile arrive cough yawn faint kneel sneeze pray complain",
    "I": "sleep laugh smile cough yawn kneel sneeze pray complain dance sing wait rest whisper",
    "R": "praised blamed hurt saw described trusted photographed",
}
PHRASES = {
    "habit": ("every morning", "every Sunday", "on most days", "all the time"),
    "mood": ("tired", "friendly", "in a hurry", "nervous", "ready to leave"),
    "medium": ("the mirror", "the report", "the photograph", "a long letter"),
    "when": ("", "yesterday", "last week", "at noon", "on Monday", "in the morning"),
}


def slots(dice: Dice) -> dict[str, str]:
    """One value for each slot, all from one scene."""
    scene = dice.pick([scene for scene in lexicon.EVERYWHERE if gifts(scene.things)])
    person, other = dice.several(scene.people, 2)
    thing = dice.pick([noun for noun in scene.things if noun.kind != "animal"])
    verb = dice.pick(lexicon.actions(thing.kind)).names[0]
    while verb in ("read", "cut down"):  # base and past look the same
        verb = dice.pick(lexicon.actions(thing.kind)).names[0]
    woman, man = dice.pick(lexicon.WOMEN), dice.pick(lexicon.MEN)
    values = {
        "person": person.names[0],
        "people": plural(person.names[0]),
        "other": other.names[0],
        "others": plural(other.names[0]),
        "near": dice.pick((other.names[0], plural(other.names[0]))),
        "agent": str(phrase(dice, person)),
        "thing": thing.names[0],
        "things": plural(thing.names[0]),
        "gift": dice.pick(gifts(scene.things)).names[0],
        "Q": dice.pick(lexicon.QUALITIES[thing.kind])[0],
        "place": dice.pick(scene.places)[0],
        "woman": woman,
        "man": man,
        "name": dice.pick((woman, man)),
        "R": dice.pick(LISTS["R"].split()),
    }
    verbs = {"V": verb, **{slot: dice.pick(LISTS[slot].split()) for slot in ("S", "J", "I")}}
    for slot, base in verbs.items():
        for form in ("base", "third", "past", "participle", "gerund"):
            values[f"{slot}.{form}"] = inflect(base, form)
    return values | {slot: dice.pick(phrases) for slot, phrases in PHRASES.items()}


def gifts(things: tuple[Noun, ...]) -> list[Noun]:
    return [thing for thing in things if thing.kind in lexicon.TRANSFERS[0].objects]


def cola(dice: Dice, label: int) -> tuple[str]:
    template = dice.pick(TEMPLATES[dice.pick(DRAWN)]["*+"[label]])
    return (sentence(fill(dice, template, slots(dice).__getitem__)),)
