"""Simulated data sets, of two worlds: pixels are made up, what people say is real.

The world of captions (``captions_*``) needs captions only: boxes are invented, too. The world of annotations
(``annotations_*``) takes prepared annotations: phrases and boxes are real.

phrases                       which words of a caption name objects, and which describe them
assumptions                   every number of the model with its reason
class_priors                  what is usual for a class; names of one thing
*_content                     what captions, or annotations, say of an image
*_layout                      where the objects are, and what nobody mentions
world                         the vectors of classes and words
detector, appearance          a detector's errors; V and c of its boxes
dataset, *_dataset            all of it, in a folder; what each world adds
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
