"""QQP: do two questions ask the same? Frames with several phrasings, over topics with synonyms."""

from dataclasses import dataclass

from english.dice import Dice
from english.lexicon import CITIES, Names, names, slots
from english.templates import fill, lines

TOPICS_TABLE = """
way: at home = in my own home, as a beginner = with no experience, on my own = without any help,
    in my spare time = in my free time, with simple tools = with basic tools,
    during the holidays = on vacation, together with a friend = with the help of a friend,
    before the summer = by the start of the summer
job: pilot = airline pilot, lawyer = attorney, nurse, translator, film director = movie director,
    vet = veterinarian, data scientist, journalist = reporter, chef = professional cook, architect,
    firefighter, judge, flight attendant = cabin attendant, marine biologist, dentist,
    software engineer = software developer
country: Canada, Germany, Japan, Brazil, India, the United States = America, Norway, Australia,
    France, the United Kingdom = Britain
who: cats, dogs, birds, horses, babies = infants, teenagers = adolescents,
    old people = elderly people, parrots, rabbits, toddlers = small children
habit: sleep so much = sleep so long, hate water = dislike water, stare at people,
    make so much noise = get so loud, follow other people around, get bored so easily,
    wake up so early = get up so early, chew on everything, hide under the bed,
    refuse to eat vegetables, get scared of thunder = fear thunder
means: by train = by rail, by car, by bus = by coach, by plane = by air
drink: coffee, green tea, black tea, hot chocolate = hot cocoa, fruit juice
sport: yoga, running = jogging, swimming, weight training = weight lifting, dancing, tennis
computer: a laptop = a notebook computer, a tablet, a desktop computer = a desktop, a smartphone
car: an electric car = an electric vehicle, a hybrid car, a diesel car, a motorcycle = a motorbike
language: Python, Java, Rust, Fortran, Haskell
home: an apartment = a flat, a house, a houseboat, a room in a shared apartment
pet: a cat, a dog, a rabbit, a parrot, a hamster
value: gold, silver, stocks = shares, government bonds, real estate = property
lesson: piano lessons, guitar lessons, singing lessons, drum lessons, violin lessons
"""
COMPARED = ("drink", "sport", "computer", "car", "language", "home", "pet", "value", "lesson")

# Each verb goes with each of its objects.
PROJECTS = """
learn = study: French, Spanish, Japanese, Arabic, German, Russian, physics, programming = coding
learn to: play the guitar, play the piano, swim, drive a car = drive, draw, dance, cook
repair = fix: a bicycle = a bike, a laptop = a notebook computer, a watch, an old radio,
    a leaking tap = a dripping faucet, a washing machine
sell: a bicycle = a bike, an old car = a second-hand car, a house = a home, a watch,
    homemade jewelry
clean: a leather sofa = a leather couch, a laptop = a notebook computer, an oven, white shoes,
    a wool carpet = a wool rug
cook = prepare: rice, pasta = noodles, salmon, lentils, a turkey, a steak
improve: my handwriting, my memory, my English = my English skills, my posture, my writing
start = launch: a blog, a podcast, a small business = a small company, an online store = a web shop
get rid of = eliminate: ants in the kitchen, acne = pimples, mice, back pain, weeds in the garden
grow: tomatoes, roses, mushrooms, avocados, a lemon tree
build = make: a website = a web page, a robot, a wooden table, a kite, a mobile app = a phone app
raise = bring up: a puppy = a young dog, a shy child, twins, a parrot
stop: snoring, biting my nails, wasting time = losing time, smoking, worrying about exams
"""

# The topics of x and y, then the phrasings; `x <> y` says that x and y may change places.
FRAMES_TABLE = """
project way: How do I {x} {y}? / What is the best way to {x} {y}? / How can I {x} {y}?
project way: How hard is it to {x} {y}? / Is it difficult to {x} {y}?
    / How difficult is it to {x} {y}?
project way: How long does it take to {x} {y}? / How much time do I need to {x} {y}?
    / How much time does it take to {x} {y}?
project way: How much does it cost to {x} {y}? / What does it cost to {x} {y}?
    / How much money do I need to {x} {y}?
project way: Why should I {x} {y}? / What are good reasons to {x} {y}?
    / What is the point of trying to {x} {y}?
job country: How do I become a(n) {x} in {y}? / What does it take to become a(n) {x} in {y}?
    / How can I become a(n) {x} in {y}?
job country: How much does a(n) {x} earn in {y}? / How much money does a(n) {x} make in {y}?
    / What is the average salary of a(n) {x} in {y}?
job country: What is it like to be a(n) {x} in {y}? / How does it feel to work as a(n) {x} in {y}?
    / What is the daily life of a(n) {x} in {y} like?
who habit: Why do {x} {y}? / What makes {x} {y}? / What is the reason that {x} {y}?
who habit: Is it normal that {x} {y}? / Is it common for {x} to {y}? / Do {x} normally {y}?
thing <> thing: Which is better, {x} or {y}? / Would you prefer {x} or {y}?
    / What would you choose, {x} or {y}?
thing <> thing: What is the difference between {x} and {y}? / What distinguishes {x} from {y}?
    / How would you tell {x} from {y}?
thing thing: Should I switch from {x} to {y}? / Is it worth switching from {x} to {y}?
    / Is it a good idea to switch from {x} to {y}?
city <> city: How far is it from {x} to {y}? / What is the distance between {x} and {y}?
    / How many miles is it from {x} to {y}?
city city: Should I move from {x} to {y}? / Is it worth moving from {x} to {y}?
    / Is it a good idea to move from {x} to {y}?
city city: What is the cheapest flight from {x} to {y}?
    / How do I get a cheap flight from {x} to {y}?
    / Where can I book a cheap flight from {x} to {y}?
city means: Is it easy to get to {x} {y}? / How easily can I reach {x} {y}?
    / Is {x} easy to reach {y}?
city means: How long does it take to get to {x} {y}?
    / How many hours does it take to reach {x} {y}? / How much time does it take to get to {x} {y}?
"""


@dataclass(frozen=True)
class Frame:
    """What is asked: the topics of x and y, phrasings, and whether x and y may change places."""

    topics: tuple[str, str]
    phrasings: tuple[str, ...]
    mirrored: bool


def frame(line: str) -> Frame:
    head, tail = line.split(": ")
    first, second = head.replace("<> ", "").split()
    return Frame((first, second), tuple(tail.split(" / ")), "<>" in head)


def projects(table: str) -> tuple[Names, ...]:
    found = []
    for line in lines(table):
        verbs, things = line.split(": ")
        for thing in map(names, things.split(", ")):
            found.append(tuple(f"{verb} {name}" for verb in names(verbs) for name in thing))
    return tuple(found)


TOPICS = slots(TOPICS_TABLE) | {"city": tuple((city,) for city in CITIES)}
TOPICS |= {"project": projects(PROJECTS), "way": (("",), ("",), *TOPICS["way"])}
FRAMES = tuple(map(frame, lines(FRAMES_TABLE)))


def ask(dice: Dice, frame: Frame, x: Names, y: Names) -> str:
    values = {"x": x, "y": y}
    question = fill(dice, dice.pick(frame.phrasings), lambda slot: dice.pick(values[slot]))
    return question.replace(" ?", "?")


def topics(dice: Dice, frame: Frame) -> list[tuple[Names, ...]]:
    """What x and y may be; only what is of one class is compared."""
    things = dice.pick(COMPARED)
    return [TOPICS[things if topic == "thing" else topic] for topic in frame.topics]


def qqp(dice: Dice, label: int) -> tuple[str, str]:
    """Positive: the same in another phrasing. Negative: another topic, frame or order of both.

    As in GLUE, some questions are asked again more often than others: those of the first frames.
    """
    frame = dice.early(FRAMES) if label else dice.pick(FRAMES)
    xs, ys = topics(dice, frame)
    x = dice.pick(xs)
    y = dice.other(ys, x)
    question = ask(dice, frame, x, y)
    if label:
        x, y = (y, x) if frame.mirrored and dice.chance(0.5) else (x, y)
        return question, ask(dice, frame, x, y)
    change = dice.pick(("x", "y", "frame", "frame", "places", "all", "all"))
    if change == "x":
        x = dice.pick([other for other in xs if other not in (x, y)])
    elif change == "y":
        y = dice.pick([other for other in ys if other not in (x, y)])
    elif change == "places" and xs is ys and not frame.mirrored:
        x, y = y, x
    elif change == "all":
        frame = dice.pick([other for other in FRAMES if other.topics != frame.topics])
        xs, ys = topics(dice, frame)
        x = dice.pick(xs)
        y = dice.other(ys, x)
    else:
        same = [other for other in FRAMES if other.topics == frame.topics and other != frame]
        frame = dice.pick(same)
    return question, ask(dice, frame, x, y)
