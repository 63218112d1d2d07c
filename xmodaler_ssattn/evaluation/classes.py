"""The 480 object classes of Flickr30k that grounding is scored on, in the order of the official class file.

The order matters: where two names share a lemma ("paper" / "papers"), the later one wins (``lemmas.class_of_lemma``).
"""

from __future__ import annotations

import functools
import importlib.resources


@functools.lru_cache(maxsize=1)
def flickr30k_classes() -> tuple[str, ...]:
    """The names, one singular noun each. The file belongs to ``data``; it is read here as plain text."""
    file = importlib.resources.files("xmodaler_ssattn") / "data" / "resources" / "flickr30k_class_name.txt"
    return tuple(file.read_text(encoding="utf-8").split())
