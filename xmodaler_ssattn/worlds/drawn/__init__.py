"""The sample scenes: a small drawn world in the layout of Flickr30k Entities, made from a seed.

brush, shapes                         drawing of objects
kinds, backgrounds, scenes            the objects, the places, and their arrangement
grammar                               the captions
proposals, descriptors, region_maker  from pixels to regions: the detector of the scenes
picture_proposals                     its boxes from the pixels of a picture only
drawn_dataset                         the whole data set
"""

from xmodaler_ssattn.worlds.drawn.drawn_dataset import draw_dataset, singular
from xmodaler_ssattn.worlds.drawn.kinds import CLASS_NAMES
from xmodaler_ssattn.worlds.drawn.region_maker import SceneRegionMaker

__all__ = ["CLASS_NAMES", "SceneRegionMaker", "draw_dataset", "singular"]
