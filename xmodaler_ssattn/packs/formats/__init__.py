"""The published feature packs, one file per format.

A file in this folder with a class derived from ``Pack`` is a format. The class has its name, its options, its line of
help and a description of its files. The command line finds it automatically; no other file needs to be changed.
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
