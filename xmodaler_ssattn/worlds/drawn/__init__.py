"""The sample scenes: a small drawn world in the layout of Flickr30k Entities, made from a seed.

brush, shapes_beings, shapes_things   how an object is drawn
kinds, backgrounds, scenes            what there is, and what is where
salience, captions, grammar           what people write about it
official_layout                       Images/, Sentences/, Annotations/, split ids
proposals, descriptors, classifier    from pixels to regions
components, picture_proposals, region_maker     the same for a picture of which nothing else is known
parallel, manifest, draw              the whole data set
"""

from xmodaler_ssattn.worlds.drawn.draw import SampleData, draw_sample, singular
from xmodaler_ssattn.worlds.drawn.kinds import CLASS_NAMES
from xmodaler_ssattn.worlds.drawn.region_maker import SampleRegionMaker

__all__ = ["CLASS_NAMES", "SampleData", "SampleRegionMaker", "draw_sample", "singular"]
