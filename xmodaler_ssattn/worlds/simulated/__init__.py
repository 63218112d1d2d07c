"""Simulated data sets, in two worlds: captions are real, region features are simulated.

The world of captions (``captions_*``) needs only captions and also simulates the boxes. The world of annotations
(``annotations_*``) uses prepared annotations: phrases and boxes are real.

phrases            the words of a caption that name objects, and those that describe them
assumptions        every number of the model with its reason
class_priors       usual sizes and places of classes; different names of the same object
world              the vectors of classes and words; the objects of one picture
*_world            the content of an image, and the places of the objects, including unmentioned ones
detector           a detector's boxes with errors, and their V and c
dataset            the folder of a data set; *_dataset: the additions of each world
"""

from xmodaler_ssattn.worlds.simulated.annotations_dataset import AnnotationsSource
from xmodaler_ssattn.worlds.simulated.assumptions import AnnotationsAssumptions, CaptionsAssumptions, Settings
from xmodaler_ssattn.worlds.simulated.captions_dataset import CaptionsSource
from xmodaler_ssattn.worlds.simulated.dataset import simulate

__all__ = [
    "AnnotationsAssumptions",
    "AnnotationsSource",
    "CaptionsAssumptions",
    "CaptionsSource",
    "Settings",
    "simulate",
]
