"""The attention accuracy by the place of the object word in its sentence, and by the kind of object.

Without supervision, attention may ground only the first object word of a sentence; people then seem easier than things
only because sentences begin with them. The split accuracy shows both.
"""

from __future__ import annotations

import numpy as np

from xmodaler_ssattn.evaluation.forced import ForcedMatches

PLACES = ("1st", "2nd", "3rd")
LATER = "4th or later"
# The classes whose phrases Flickr30k Entities marks as people, or as clothing, more often than as anything else
# (counted over all its captions); all other classes are "other".
_PEOPLE = (
    "adult artist athlete audience baby band bicyclist biker boy bride cheerleader chef child class climber clown "
    "couple cowboy crew crowd customer cyclist dancer daughter doctor driver drummer family fan father female "
    "firefighter fireman friend gentleman girl goalie groom group guard guitarist guy gymnast hiker individual "
    "infant jockey kid lady male man member mother motorcyclist musician officer onlooker opponent parade passenger "
    "pedestrian people performer person pitcher player policeman racer referee rider runner singer skateboarder "
    "skater skier snowboarder soldier someone son spectator student surfer swimmer teacher team teammate teenager "
    "toddler tourist vendor woman worker"
)
_CLOTHING = (
    "apron attire backpack bag bandanna belt bikini blouse boot cap clothes clothing coat collar costume dress garb "
    "glass glove goggles harness hat headband headphone heel helmet hoodie jacket jeans jersey jumpsuit leash mask "
    "necklace orange outfit outfits overalls pajamas pants pink purse ring robe sandal scarf shirt shoe shorts "
    "skirt sneaker sock stripe suit sunglass sweater sweatshirt swimsuit t-shirt tie top trunk umbrella uniform "
    "vest wetsuit"
)
PEOPLE, CLOTHING = frozenset(_PEOPLE.split()), frozenset(_CLOTHING.split())
KINDS = ("people", "clothing", "other")


def kind_of(name: str) -> str:
    """ "people", "clothing" or "other"."""
    return "people" if name in PEOPLE else "clothing" if name in CLOTHING else "other"


def groups(matches: ForcedMatches) -> dict[str, np.ndarray]:
    """Name -> (n,) bool, whether each annotated word belongs to the group.

    ``all``; the first, second, third and later object words of their captions (``PLACES``, ``LATER``); the ``KINDS``;
    and each kind among the first object words and among all later ones ("people, 1st", "people, later").
    """
    kinds = np.array([KINDS.index(kind_of(name)) for name in matches.classes], dtype=np.int64)[matches.label]
    found = {"all": np.ones(len(matches.label), dtype=bool)}
    found |= {name: matches.place == place for place, name in enumerate(PLACES)}
    found[LATER] = matches.place >= len(PLACES)
    found |= {kind: kinds == number for number, kind in enumerate(KINDS)}
    for number, kind in enumerate(KINDS):
        found[f"{kind}, 1st"] = (kinds == number) & (matches.place == 0)
        found[f"{kind}, later"] = (kinds == number) & (matches.place > 0)
    return found


def accuracy_by_place(matches: ForcedMatches) -> dict[str, dict[str, float]]:
    """Group (see ``groups``) -> ``words``, its number of annotated words, and ``accuracy``, the share of hits.

    The mean is over words, not over classes as in ``attention_accuracy``. A group without words is left out.
    """
    return {
        name: {"words": int(chosen.sum()), "accuracy": float(matches.hit[chosen].mean())}
        for name, chosen in groups(matches).items()
        if chosen.any()
    }
