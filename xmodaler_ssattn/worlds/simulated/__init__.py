"""A simulated data set: what people say is real, and where it is, too, when annotations are given; pixels are made up.

phrases, captions     which objects five captions talk about, how often, how early, in which words
parameters            every assumption, named, with its default's reason
kinds, world          what is usual for a class; the vectors of classes and words
scene, regions        where the objects of an image are, without real boxes; what a detector would make of it
annotated, detector   the objects with real boxes, and what nobody mentions; a detector's errors around them
official_files        the layout of Flickr30k Entities
shuffled              the leak test's regions
dataset               all of it, in a folder; annotated_dataset: with real boxes
"""

from xmodaler_ssattn.worlds.simulated.annotated_dataset import simulate_annotated
from xmodaler_ssattn.worlds.simulated.dataset import Settings, make_image, simulate
from xmodaler_ssattn.worlds.simulated.parameters import Assumptions, RealBoxes

__all__ = ["Assumptions", "RealBoxes", "Settings", "make_image", "simulate", "simulate_annotated"]
