"""The feature packs in circulation, one file per format.

A file of this folder with a class derived from ``Pack`` is a format: the command line finds it here, with its name, its
options, its line of help and what its files look like. Nothing else needs to know it.
"""

import importlib
import inspect
import pkgutil

from xmodaler_ssattn.packs.pack import Pack


def all_formats() -> dict[str, type[Pack]]:
    """Name on the command line -> the class that reads the format, in alphabetical order."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for reader in vars(module).values():
            if inspect.isclass(reader) and issubclass(reader, Pack) and not inspect.isabstract(reader):
                found[reader.name] = reader
    return dict(sorted(found.items()))
