"""SST-2: is this sentence of a film review positive?

Words have a polarity; negation, contrast and comparison overrule it.
"""

from english.dice import Dice
from english.inflection import sentence
from english.templates import fill, marked

# Index 0 holds negative words, 1 positive ones; the common ones come first.
ADJECTIVES = (
    """dull weak boring bad predictable awful clumsy bland terrible lifeless poor shallow tedious
    disappointing mediocre stale flat dreadful forgettable lazy tiresome sloppy dreary lackluster
    uninspired annoying insipid amateurish hollow ponderous abysmal trite""".split(),
    """good charming brilliant great wonderful funny clever moving excellent fresh delightful superb
    impressive beautiful engaging splendid memorable gripping lively terrific marvelous remarkable
    inventive touching enchanting outstanding graceful witty exquisite magnificent captivating
    sublime""".split(),
)
NOUNS = (
    "disaster mess disappointment failure bore chore misfire letdown flop fiasco".split(),
    "treat triumph delight pleasure joy masterpiece gem success marvel revelation".split(),
)
VERBS = (
    "hated disliked loathed detested resented".split(),
    "loved enjoyed admired adored treasured".split(),
)
# Said with `truly` rather than `very`, and without `more`.
EXTREME = """awful terrible dreadful abysmal brilliant great wonderful excellent delightful superb
    splendid terrific marvelous remarkable magnificent outstanding exquisite sublime impressive
    mediocre""".split()
# Compared with -er or an own word.
SHORT = "dull weak bad bland poor stale flat lazy good fresh funny clever witty lively".split()
PLACES = {
    "film": "film movie picture comedy drama thriller sequel remake documentary western".split(),
    "part": """acting music story plot script dialogue ending cast camerawork soundtrack pacing
        editing humor direction opening""".split(),
    "one part": "story plot script ending cast soundtrack".split(),
    "whole": ("as a whole", "in the end", "on balance", "after all"),
}

# Slots in capitals have the polarity of the sentence, those in small letters the opposite one:
# adjective, graded (an adjective, perhaps with an adverb), comparable (fits after `more`), noun,
# verb. Templates marked = serve both labels, + and - only one.
PATTERNS = """
plain: the words mean what they say
= the {part} of this {film} is {GRADED}
= this is a(n) {GRADED} {film} with a(n) {ADJECTIVE} {one part}
= I {VERB} this {ADJECTIVE} {film} from beginning to end
= the {film} is a(n) {NOUN}, and the {part} is {GRADED}
= what a(n) {ADJECTIVE} {film}!

negated: one negation turns a word around
= the {part} of this {film} is {never|not|far from|anything but|by no means|hardly} {adjective}
= nobody could call this {film} {adjective}
= there is nothing {adjective} about the {part} of this {film}
= I cannot say that I {verb} this {film}
= this {film} is not the {noun} that I expected
= there is not a single {adjective} scene in this {film}

twice: two negations, or one that aims at something else
= nobody can deny that the {part} of this {film} is {ADJECTIVE}
= there is no doubt that this {film} is {ADJECTIVE}
= it is hard to imagine a more {COMPARABLE} {film}
= I could not have {VERB} this {film} more
= it is not only the {part} of this {film} that is {ADJECTIVE}
= I have never seen such a(n) {ADJECTIVE} {film}

part: a part is not the whole, which decides
= the {part} is {graded}, but the {film} is {GRADED} {whole}
= {although|even though|while} the {part} is {graded}, the {film} is a(n) {NOUN}
= I {VERB} the {film}, {although|even though|while} the {part} is {graded}
= the {film} is {GRADED} {whole}, despite the {adjective} {part}
= despite the {adjective} {part}, I {VERB} the {film}
= the {part} is {graded}, and yet the {film} is a(n) {NOUN}

others: what others said or one hoped for is not the verdict
= I expected a(n) {adjective} {film} and got a(n) {ADJECTIVE} one
= critics called the {film} {adjective}, yet I found it {ADJECTIVE}
= I found the {film} {ADJECTIVE}, whatever the critics say about its {adjective} {part}
= the trailer looked {adjective}, but the {film} itself is {ADJECTIVE}
= where the original was {adjective}, this {film} is {ADJECTIVE}
= this {film} is as {ADJECTIVE} as the original was {adjective}
= my friends {verb} this {film}, but to me it is a(n) {NOUN}

compared: comparisons and wishes say what the film is not
= this {film} is nowhere near as {adjective} as the first one
= the {part} of this {film} could hardly be less {comparable}
= I have seen far more {comparable} films than this {film}
+ the {part} of this {film} is much less {comparable} than I had feared
- the {part} of this {film} is much less {comparable} than I had hoped
+ if only every {film} were as {ADJECTIVE} as this one
- if only the {part} of this {film} were more {comparable}
"""

TEMPLATES = marked(PATTERNS, "=+-")
KINDS = "plain plain plain negated negated twice part part others compared".split()


def word(dice: Dice, label: int, slot: str) -> str:
    """A value for a slot, in a sentence with this label."""
    if slot in PLACES:
        return dice.pick(PLACES[slot])
    side = label if slot.isupper() else 1 - label
    if slot.lower() in ("noun", "verb"):
        return dice.early((NOUNS if slot.lower() == "noun" else VERBS)[side])
    adjective = dice.early(ADJECTIVES[side])
    if slot.lower() == "comparable" and (adjective in EXTREME or adjective in SHORT):
        return word(dice, label, slot)
    if slot.lower() == "graded" and dice.chance(0.6):
        adverbs = ("truly", "simply") if adjective in EXTREME else ("very", "really", "rather")
        return f"{dice.pick(adverbs)} {adjective}"
    return adjective


def sst2(dice: Dice, label: int) -> tuple[str]:
    templates = TEMPLATES[dice.pick(KINDS)]
    template = dice.pick(templates["="] + templates["-+"[label]])
    return (sentence(fill(dice, template, lambda slot: word(dice, label, slot))),)
