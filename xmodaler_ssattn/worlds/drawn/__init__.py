"""The sample scenes: a small drawn world in the layout of Flickr30k Entities, made from a seed.

brush, kinds                          the objects and their drawings
backgrounds, scenes                   the places, and the arrangement of the objects
grammar                               the captions
proposals, descriptors, region_maker  from pixels to regions: the detector of the scenes
drawn_dataset                         the whole data set
"""

from xmodaler_ssattn.worlds.drawn.drawn_dataset import draw_dataset, singular
from xmodaler_ssattn.worlds.drawn.kinds import CLASS_NAMES
from xmodaler_ssattn.worlds.drawn.region_maker import SceneRegionMaker

__all__ = ["CLASS_NAMES", "SceneRegionMaker", "draw_dataset", "singular"]
