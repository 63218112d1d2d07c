"""A stand-in for the one import that upstream X-modaler makes of torchvision, to print its version.

torchvision has no CPU build that imports beside every CPU build of torch. Tests put this folder at the
end of the path, so that a real torchvision wins where there is one. Nothing of it is used.
"""

__version__ = "0.0.0+standin"
