"""The 480 object classes of Flickr30k that grounding is scored on, in the order of the official class file.

The order matters: where two names share a lemma ("paper" / "papers"), the later one wins (``lemmas.class_of_lemma``).
"""

from __future__ import annotations

import functools

from xmodaler_ssattn.classes import read_classes


@functools.lru_cache(maxsize=1)
def flickr30k_classes() -> tuple[str, ...]:
    """The names, one singular noun each."""
    return tuple(read_classes())
