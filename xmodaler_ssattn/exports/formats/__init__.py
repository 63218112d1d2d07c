"""The formats of ``xmodaler export``, one file per format.

A file in this folder with a class derived from ``Export`` is a format. The class has its name, its options and its
help. The command line finds it automatically; no other file needs to be changed.
"""

from xmodaler_ssattn.discovery import formats_in
from xmodaler_ssattn.exports.export import Export


def all_formats() -> dict[str, type[Export]]:
    """Name on the command line -> the class that writes the format, in alphabetical order."""
    return formats_in(__name__, __path__, Export)
