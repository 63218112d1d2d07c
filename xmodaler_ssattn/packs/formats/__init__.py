"""The published feature packs, one file per format.

A file in this folder with a class derived from ``Pack`` is a format. The class has its name, its options, its line of
help and a description of its files. The command line finds it automatically; no other file needs to be changed.
"""

from xmodaler_ssattn.discovery import formats_in
from xmodaler_ssattn.packs.pack import Pack


def all_formats() -> dict[str, type[Pack]]:
    """Name on the command line -> the class that reads the format, in alphabetical order."""
    return formats_in(__name__, __path__, Pack)
