"""A simulated data set from real captions: what people say is real, boxes and features are made up around it.

phrases, captions     which objects five captions talk about, how often, how early, in which words
parameters            every assumption, named, with its default's reason
kinds, world          what is usual for a class; the vectors of classes and words
scene, regions        where the objects of an image are; what a detector would make of it
official_files        the layout of Flickr30k Entities
shuffled              the leak test's regions
dataset               all of it, in a folder
"""

from xmodaler_ssattn.simulated.dataset import Settings, make_image, simulate
from xmodaler_ssattn.simulated.parameters import Assumptions

__all__ = ["Assumptions", "Settings", "make_image", "simulate"]
