"""Usual values of object classes: size, height in the picture, shape, and other names.

Plausible values for groups of everyday words; for a class that is not listed, they are sampled, seeded by its name.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ClassPrior:
    """area: median share of the picture; height: of the centre, 0 top, 1 bottom; aspect: width / height in pixels."""

    entity_type: str
    area: float
    height: float
    aspect: float
    words: frozenset[str]


MALE = "man guy male gentleman groom father cowboy policeman fireman"
FEMALE = "woman lady female bride mother"
CHILD = "child kid toddler baby infant student"
BOY, GIRL = "boy son", "girl daughter"
CROWDS = "people group crowd couple family team band crew audience class"
ANYBODY = (
    "person someone individual adult teenager friend player worker singer racer runner athlete dancer musician "
    "guitarist drummer performer officer firefighter soldier doctor teacher chef driver rider biker cyclist "
    "bicyclist motorcyclist skateboarder snowboarder skater skier surfer swimmer climber hiker gymnast "
    "cheerleader artist clown vendor customer passenger tourist pedestrian referee pitcher goalie jockey "
    "opponent teammate member guard onlooker spectator photographer cowboy policeman fireman student"
)

# entity type, area, height, aspect: words
_PRIORS = f"""
people      0.14  0.55 0.5: {MALE} {FEMALE} {BOY} {GIRL} {ANYBODY}
people      0.10  0.60 0.6: {CHILD}
people      0.24  0.55 1.4: {CROWDS}
clothing    0.045 0.50 0.9: shirt t-shirt jacket coat sweater sweatshirt hoodie blouse vest suit dress uniform jersey \
outfit costume clothes clothing attire garb robe apron overalls jumpsuit wetsuit swimsuit pajamas bikini pink orange
clothing    0.030 0.68 0.7: jeans shorts pants skirt trunk trunks
clothing    0.006 0.86 1.4: shoe sneaker sandal boot heel sock
clothing    0.013 0.27 1.2: hat cap helmet headband bandanna scarf mask goggles sunglass glass headphone
bodyparts   0.014 0.28 0.9: head face hair beard mustache mouth nose eye ear tongue neck ponytail red-hair blond-hair \
haircut smile tooth
bodyparts   0.009 0.55 1.0: hand arm finger knee leg foot shoulder chest back lap tattoo
scene       0.36  0.78 2.6: street road sidewalk pavement path trail walkway crosswalk city ground field yard lawn \
grass park beach sand snow ice dirt mud floor track court lot area stage slope hill shore alley forest garden \
platform deck dock pier
scene       0.34  0.72 2.2: water ocean lake river pool pond stream wave
scene       0.34  0.45 1.4: room kitchen restaurant store shop market church station bar
scene       0.30  0.14 3.0: sky
other       0.010 0.12 1.0: sun light balloon
other       0.26  0.36 1.2: building house structure wall mountain cliff bridge waterfall roof tent scaffolding
other       0.16  0.36 0.8: tree bush flag pole sculpture statue
vehicles    0.13  0.58 1.5: car truck bus train boat ship canoe kayak raft vehicle van wagon tractor motorcycle \
motorbike bike bicycle scooter stroller cart carriage wheelchair firetruck sled
vehicles    0.08  0.22 2.2: plane airplane
animals     0.09  0.62 1.2: dog puppy cat horse cow bull sheep camel animal
animals     0.012 0.45 1.1: bird pigeon duck fish
instruments 0.035 0.55 1.1: guitar drum piano violin trumpet accordion saxophone keyboard instrument microphone
other       0.006 0.48 1.0: ball basketball baseball football volleyball
other       0.13  0.72 1.7: table bench chair couch bed desk counter stool seat booth
"""


def _prior(line: str) -> ClassPrior:
    numbers, words = line.split(": ")
    entity_type, area, height, aspect = numbers.split()
    return ClassPrior(entity_type, float(area), float(height), float(aspect), frozenset(words.split()))


PRIORS: tuple[ClassPrior, ...] = tuple(map(_prior, _PRIORS.strip().splitlines()))
PLACES = frozenset(word for prior in PRIORS if prior.entity_type == "scene" for word in prior.words)

# Groups of words that may be used for the same thing. Two captions may name an object by different words of a group;
# two words in the same caption are two objects.
_KIN = f"""
{MALE} {ANYBODY}; {FEMALE} {ANYBODY}; {BOY} {CHILD} person someone skateboarder player;
{GIRL} {CHILD} person someone dancer player; {CHILD}; people group crowd audience spectator onlooker;
people group family couple friend team band crew; dog puppy animal; horse animal; cat animal; cow bull animal;
bird pigeon duck; bike bicycle; motorcycle motorbike bike; car vehicle; truck vehicle van;
boat ship canoe kayak raft; plane airplane; shirt t-shirt sweater sweatshirt top jersey; jacket coat;
outfit uniform suit costume attire garb clothes clothing outfits; pants jeans; hat cap; sunglass glass goggles;
street road; sidewalk pavement walkway path; path trail; field grass lawn yard;
water ocean lake river pool pond stream wave; beach sand shore; snow ice slope; hill mountain cliff rock;
building house structure store shop; store shop market; stage platform; wall mural painting; fence railing rail;
cellphone phone; computer laptop; food meal meat dish; sign banner poster advertisement; couch seat chair;
bench seat; tree bush plant; cup glass drink beverage bottle; book magazine newspaper;
bag backpack purse luggage; ball football basketball baseball volleyball; mud dirt; ladder stair staircase
"""
KIN: tuple[frozenset[str], ...] = tuple(frozenset(group.split()) for group in _KIN.split(";"))


def kin_of(name: str) -> tuple[int, ...]:
    """The numbers of the groups of ``KIN`` that a class belongs to."""
    return tuple(number for number, group in enumerate(KIN) if name in group)


def prior_of(name: str) -> ClassPrior | None:
    """The usual values of a class; None when it is not listed."""
    return next((prior for prior in PRIORS if name in prior.words), None)
