"""Check that the host's classes in a config work with ours, before any data is read.

GroundedCaptioner passes positions, class probabilities, boxes and the attention; X-modaler's own meta-architectures
drop every batch key that they do not know.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import DECODER_REGISTRY, LOSSES_REGISTRY, META_ARCH_REGISTRY

# X-modaler's parts that need inputs of their own data sets: (key in MODEL, class): (the input, our counterpart).
_READ_MORE = {
    ("DECODER", "AttributeDecoder"): ("attributes", "configs/flickr30k_entities/lstm_a.yaml"),
    ("ENCODER", "GCNEncoder"): ("relations between regions", "configs/flickr30k_entities/gcn_lstm.yaml"),
    ("ENCODER", "COSNetEncoder"): ("retrieved words", ""),
}


def refuse_parts_that_read_more(cfg: Any, dataset: str) -> None:
    """Refuse X-modaler's parts that need more of a sample than ``dataset`` has, with a remedy."""
    for (key, name), (what, ours) in _READ_MORE.items():
        if cfg.MODEL[key] == name:
            hint = f" {ours} has the same model on the regions of {dataset}." if ours else ""
            raise UserError(
                f"MODEL.{key}: {name} reads {what} of an image, which {dataset} does not have. Use the data set that "
                f"X-modaler has for it, or another MODEL.{key}.{hint}"
            )


def is_kind_of(registry: Any, name: str, *kinds: str) -> bool:
    """Whether ``name`` is one of ``kinds``, or the registered class of that name is derived from one of them."""
    bases = getattr(registry.get(name), "__mro__", ()) if name in registry else ()
    return not {name, *(base.__name__ for base in bases)}.isdisjoint(kinds)


def losses_of(cfg: Any, *kinds: str) -> list[str]:
    """The names in LOSSES.NAMES of the losses ``kinds`` and of classes derived from them."""
    return [name for name in cfg.LOSSES.NAMES if is_kind_of(LOSSES_REGISTRY, name, *kinds)]


def captioner_is_grounded(cfg: Any) -> bool:
    """Whether MODEL.META_ARCHITECTURE names GroundedCaptioner or a class derived from it."""
    return getattr(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), "carries_region_inputs", False)


def needs_grounded_captioner(cfg: Any, name: str, reason: str) -> str | None:
    """A sentence for a config whose meta-architecture cannot work with the class ``name``, else None.

    Args:
        reason: why the other meta-architecture does not work, beginning with "which" or "whose".
    """
    if captioner_is_grounded(cfg):
        return None
    return (
        f"MODEL.META_ARCHITECTURE: {name} works only inside GroundedCaptioner, got {cfg.MODEL.META_ARCHITECTURE!r}, "
        f"{reason}. Set MODEL.META_ARCHITECTURE: GroundedCaptioner."
    )


def decoder_attends(cfg: Any) -> bool:
    """Whether MODEL.DECODER has an attention; False only for a class that says so, see ``GroundedDecoder``."""
    name = cfg.MODEL.DECODER
    return name not in DECODER_REGISTRY or getattr(DECODER_REGISTRY.get(name), "attends", True)


def needs_attention(cfg: Any, name: str) -> str | None:
    """A sentence for a config whose decoder has no attention, which ``name`` needs, else None."""
    if decoder_attends(cfg):
        return None
    return f"{name} needs an attention, but MODEL.DECODER {cfg.MODEL.DECODER} has none: its words have no regions."


def require_grounded_captioner(cfg: Any, name: str, reason: str) -> None:
    """Raise a ``UserError`` with the sentence of ``needs_grounded_captioner``, if there is one."""
    if problem := needs_grounded_captioner(cfg, name, reason):
        raise UserError(problem)


def require_outputs(outputs: dict, wanted: Collection[str], name: str, source: str) -> None:
    """Raise a KeyError if the model's output lacks inputs of a loss; ``source`` is a sentence about their origin."""
    if missing := [key for key in wanted if key not in outputs]:
        raise KeyError(f"{name} needs {', '.join(missing)} in the model's output. {source}")
