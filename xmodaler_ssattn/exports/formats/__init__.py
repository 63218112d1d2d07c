"""The formats of ``xmodaler export``, one file per format.

A file in this folder with a class derived from ``Export`` is a format. The class has its name, its options and its
help. The command line finds it automatically; no other file needs to be changed.
"""

import importlib
import inspect
import pkgutil

from xmodaler_ssattn.exports.export import Export


def all_formats() -> dict[str, type[Export]]:
    """Name on the command line -> the class that writes the format, in alphabetical order."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for writer in vars(module).values():
            if inspect.isclass(writer) and issubclass(writer, Export) and not inspect.isabstract(writer):
                found[writer.name] = writer
    return dict(sorted(found.items()))
