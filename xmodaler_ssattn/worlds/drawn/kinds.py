"""The fifteen kinds of object and the six colours of the sample scenes.

Every kind's name is one of the 480 object classes of Flickr30k Entities, so that the same rules apply to both. No
colour is an object class (orange and pink are), so that a colour is never an object word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xmodaler_ssattn.worlds.drawn import shapes
from xmodaler_ssattn.worlds.drawn.brush import Brush, Colour

COLOURS: dict[str, Colour] = {
    "red": (208, 52, 48),
    "blue": (52, 104, 198),
    "green": (44, 132, 72),
    "yellow": (246, 204, 58),
    "white": (247, 247, 243),
    "brown": (140, 90, 54),
}


@dataclass(frozen=True)
class Kind:
    """One kind of object."""

    name: str  # this and the plural: the words of the captions
    plural: str
    entity_type: str  # in the Flickr30k Entities markup: people, animals, vehicles, other
    draw: Callable[[Brush, Colour, str], None]  # fills a tile with it
    height: float  # its usual height as a fraction of the picture's smaller side
    aspect: float  # width / height
    zone: str  # its possible place: ground, sky or water
    colours: tuple[str, ...]  # its possible colours, equally likely
    appeal: float  # how much more often people write about it, added to its salience (see `grammar.py`)
    poses: tuple[str, ...]  # its possible actions, the captions' verbs; they change the drawing of people and animals


_ANY = tuple(COLOURS)
_LEAVES, _WALLS = ("green", "yellow", "red"), ("red", "blue", "yellow", "white", "brown")
_PEOPLE = ("standing", "waving", "walking")
_COATS = ("brown", "white", "yellow")

KINDS: tuple[Kind, ...] = (
    Kind("man", "men", "people", shapes.man, 0.36, 0.44, "ground", _ANY, 1.1, _PEOPLE),
    Kind("woman", "women", "people", shapes.woman, 0.35, 0.46, "ground", _ANY, 1.1, _PEOPLE),
    Kind("dog", "dogs", "animals", shapes.dog, 0.20, 1.25, "ground", _COATS, 1.2, ("standing", "running")),
    Kind("cat", "cats", "animals", shapes.cat, 0.19, 0.90, "ground", _COATS, 1.2, ("sitting",)),
    Kind("horse", "horses", "animals", shapes.horse, 0.31, 1.15, "ground", _COATS, 0.3, ("standing", "running")),
    Kind("bird", "birds", "animals", shapes.bird, 0.14, 1.35, "sky", _ANY, 1.5, ("flying",)),
    Kind("car", "cars", "vehicles", shapes.car, 0.19, 2.0, "ground", _ANY, 0.5, ("parked",)),
    Kind("bus", "buses", "vehicles", shapes.bus, 0.26, 1.95, "ground", _ANY, -0.2, ("parked",)),
    Kind("bike", "bikes", "vehicles", shapes.bike, 0.22, 1.5, "ground", _ANY, 0.5, ("parked",)),
    Kind("boat", "boats", "vehicles", shapes.boat, 0.27, 1.0, "water", _ANY, 0.6, ("sailing",)),
    Kind("ball", "balls", "other", shapes.ball, 0.13, 1.0, "ground", _ANY, 1.8, ("lying",)),
    Kind("balloon", "balloons", "other", shapes.balloon, 0.27, 0.68, "sky", _ANY, 0.75, ("floating",)),
    Kind("umbrella", "umbrellas", "other", shapes.umbrella, 0.22, 1.0, "ground", _ANY, 0.9, ("standing",)),
    Kind("tree", "trees", "other", shapes.tree, 0.40, 0.78, "ground", _LEAVES, 0.0, ("standing",)),
    Kind("house", "houses", "other", shapes.house, 0.36, 1.08, "ground", _WALLS, -0.7, ("standing",)),
)

KIND_BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
CLASS_NAMES: tuple[str, ...] = tuple(kind.name for kind in KINDS)
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
