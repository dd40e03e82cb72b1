"""The word lists of mini-GLUE.

Entries are separated by commas; `a = b` are synonyms, the usual one first; `a < b` says that every
a is a b; a line that begins with four spaces goes on from the line before.
"""

# What a noun of each kind is called in general, unless its own entry says it.
KINDS = """
person: person
animal: animal
food: dish
document: document
vehicle: vehicle
vessel: vessel
machine: device
furniture: piece of furniture
clothing: piece of clothing
building: building
plant: plant
container: container
instrument: musical instrument
art: work of art
"""

# Each paragraph is a scene: who acts there, on what, and where.
MATCHED_SCENES = """
person: teacher = instructor, student = pupil, librarian, principal, tutor < teacher,
    coach = trainer
document: essay < text, report, book < text, letter, poem < text
furniture: desk, bookshelf, chair
machine: printer, computer, projector
place: in the classroom, in the library, in the gym = in the gymnasium,
    in the hallway = in the corridor

person: doctor = physician, nurse, surgeon < doctor, patient, pharmacist, dentist < doctor, visitor
document: form, letter, report
machine: scanner, monitor = screen, computer
vehicle: ambulance
clothing: coat, gown
place: in the waiting room, at the clinic, in the emergency room, at the hospital

person: cook = chef, waiter = server, baker, customer = guest, manager, critic = reviewer
food: soup, cake < dessert, omelet, sandwich, stew, pizza, pie < dessert, salad
furniture: table, stool
machine: oven, mixer = blender, refrigerator = fridge
document: menu, recipe
place: in the kitchen, at the counter, on the terrace = on the patio, in the dining room

person: farmer = grower, shepherd, vet = veterinarian, gardener, hunter, rider, neighbor
animal: horse, cow, goat, sheep, dog, goose < bird, donkey, calf, rooster < bird
plant: rose < flower, tulip < flower, oak < tree, apple tree < tree
vehicle: tractor, wagon = cart, truck
building: barn, stable, shed
place: in the field, in the orchard, near the river = by the river, in the yard

person: lawyer = attorney, accountant = bookkeeper, secretary = office assistant, engineer, banker,
    programmer, reporter = journalist, editor
document: contract = agreement, invoice = bill, memo = note, report, article
machine: computer, copier = photocopier, phone = telephone, printer
furniture: desk, lamp, cabinet = cupboard
place: in the office, in the lobby = in the entrance hall,
    in the meeting room = in the conference room, at headquarters = at the main office

person: mayor, police officer = cop, firefighter, driver = motorist, tailor, thief = burglar,
    shopkeeper = store owner, painter < artist
vehicle: car = automobile, bus, van, bicycle = bike, taxi = cab
building: house = home, tower, church, museum
clothing: coat, hat, scarf, suit
place: in the square = on the plaza, at the market, near the station, in the park
"""

MISMATCHED_SCENES = """
person: sailor = seaman, captain = skipper, fisherman, diver, merchant = trader,
    passenger = traveler
animal: seal, crab, pelican < bird, turtle, dolphin
vessel: ship, boat, ferry, raft, canoe
container: barrel = cask, crate, chest = trunk
place: in the harbor = in the port, on the deck, at the pier = at the dock, near the lighthouse

person: actor = performer, singer = vocalist, pianist < musician, violinist < musician, director,
    dancer, drummer < musician
instrument: piano, violin = fiddle, guitar, drum, cello, flute
art: painting, photograph = photo, sculpture = statue, portrait
clothing: costume, mask, wig
document: script, program, poster
place: on the stage, in the dressing room, at the theater = at the playhouse, in the concert hall

person: chemist < scientist, biologist < scientist, physicist < scientist, technician,
    astronomer < scientist, intern = trainee
animal: mouse, rat, rabbit, frog, monkey
machine: microscope, telescope, laser, sensor = detector, robot
document: thesis = dissertation, notebook, diagram
place: in the laboratory = in the lab, at the observatory, in the basement = in the cellar,
    in the greenhouse

person: climber = mountaineer, guide, hiker, skier < athlete, ranger, photographer,
    tourist = vacationer, runner < athlete
animal: bear, wolf, eagle < bird, deer, fox
container: backpack = rucksack, bottle, basket
clothing: jacket, sweater, cap
place: on the trail = on the path, at the campsite, near the waterfall, in the cabin = in the hut

person: soldier, knight, guard = sentry, servant, messenger = courier, prisoner = captive,
    blacksmith, prince
building: castle = fortress, wall, gate, chapel
document: scroll, map, treaty
clothing: cloak, crown, helmet
place: in the courtyard, at the gate, in the great hall, in the dungeon
"""

# Kinds of object, then the verbs that take any of them.
TRANSITIVE = """
machine vehicle vessel furniture building instrument: repair = fix, inspect = examine, clean, paint
machine vehicle vessel furniture instrument animal document clothing art: buy = purchase, sell,
    steal, find = discover, photograph
food: eat, taste = try, serve, cook = prepare, order, burn
document: read, copy = duplicate, print, mail = post, write, destroy, hide = conceal,
    tear up = rip up
animal: feed, chase = pursue, catch = capture, rescue = save, follow, watch = observe,
    frighten = scare
plant: water, trim = prune, photograph, cut down = chop down
vehicle: drive, park, wash, wreck, push, rent = hire
vessel: steer, board, anchor, sink
building: enter, guard = protect, destroy = demolish, build = construct
clothing: wear, sew = stitch, lose = misplace, wash, fold, borrow
instrument: play, tune, borrow, lose = misplace
art: admire, frame, hide = conceal, examine = study
container: open, close = shut, carry, lift = raise, fill, empty, hide = conceal
furniture: carry, move = shift, build = construct, scratch, break
machine: break, move = shift, switch on = turn on, switch off = turn off, borrow
person: help = assist, thank, praise = commend, criticize, call = phone, invite, follow,
    greet = welcome, warn = alert, recognize = identify, ignore, avoid, protect = defend,
    push = shove, hug = embrace, rescue = save, blame, watch = observe, deceive = trick,
    support = back, interview = question
"""

INTRANSITIVE = """
: sleep, laugh, smile, leave = depart, dance, sing, cry = weep, wait, rest = relax, whisper,
    shout = yell, cough, yawn, faint = pass out, arrive, stumble = trip, kneel, pray,
    complain = grumble, sneeze
"""

DITRANSITIVE = """
document container clothing instrument art: give, send, show, hand = pass, lend = loan, offer
"""

# Kinds of noun, then what may be said of them before the noun.
ADJECTIVES = """
person: young, old = elderly, tall, tired = weary, famous = well-known, nervous = anxious,
    polite = courteous, rich = wealthy, clever = smart, friendly, brave = courageous,
    angry = furious
animal: young, small = little, large = big, hungry = starving, gentle, wild, frightened = scared
food: hot, cold = chilled, fresh, delicious = tasty, salty, large = big
document: long = lengthy, short = brief, important = significant, secret = confidential, old, new
vehicle vessel machine: old, new, small = little, large = big, expensive = costly,
    cheap = inexpensive, broken = damaged, dirty = filthy
furniture container: old, new, heavy, small = little, large = big, wooden, empty
clothing: old, new, red, blue, black, dirty = filthy, elegant = stylish
building: old, new, large = big, empty, tall, ruined = dilapidated
plant: old, young, beautiful = lovely, tall
instrument art: old, valuable = precious, small = little, beautiful = lovely, famous = well-known
"""

# Kinds of noun, then pairs of states that exclude each other; every other state is compatible.
STATES = """
vehicle: empty = full, clean = dirty, expensive = cheap, locked = unlocked
vessel: empty = full, clean = dirty, fast = slow
container: empty = full, open = closed, heavy = light
building: empty = full, locked = unlocked, dark = brightly lit
document: long = short, complete = incomplete, secret = public
clothing: wet = dry, clean = dirty, expensive = cheap
food: hot = cold, fresh = stale
person: awake = asleep, rich = poor, late = on time, alone = with a friend, calm = excited
"""

TIMES = """
: yesterday, on Monday, on Friday, on Sunday, last week, last month, at noon = at midday,
    at midnight, in the evening, before breakfast, after lunch, in March, in August, three days ago
"""

NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
WOMEN = """Anna Maria Julia Clara Emma Laura Alice Helen Nora Ruth Sarah Diana Irene Martha Olivia
    Paula Rosa Sofia Teresa Vera"""
MEN = """Peter David Thomas Martin Robert Daniel Henry Victor Simon Oscar Frank George Hugo Ivan
    Jacob Leon Miguel Oliver Philip Walter"""
SURNAMES = """Keller Moreno Bennett Larsen Novak Fischer Ramos Hughes Costa Meyer Walsh Petrov
    Tanaka Silva Berg Doyle Ferrari Grant Haines Ito Jensen Kovacs Lopez Murray Nilsson Okafor
    Porter Quinn Rossi Shaw Turner Vance Weber Yates Zeller"""
CITIES = """Lisbon Vienna Boston Chicago Madrid Prague Oslo Dublin Toronto Seattle Athens Berlin
    Geneva Denver Naples Warsaw Helsinki Glasgow Kyoto Sydney Montreal Lyon Munich Budapest"""
