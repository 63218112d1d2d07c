"""The only access to X-modaler: upstream's clone when there is one, else the embedded runtime.

All other files of this package use ``from xmodaler_ssattn.host import ...`` and never import
``xmodaler`` or ``runtime``. The choice is made once, at the first import, in this order:

1. an ``xmodaler`` that is imported already (this package is a plugin in another script);
2. ``XMODALER_SSATTN_HOST`` = ``upstream`` or ``embedded``;
3. ``XMODALER_HOME`` = the folder of an X-modaler clone (it is put at the front of ``sys.path``);
4. an importable ``xmodaler.config`` (the clone is on PYTHONPATH or is the working directory);
5. the embedded runtime.

``import xmodaler`` succeeds in any folder that contains a folder of that name; therefore ``xmodaler.config`` is
checked. A chosen host that cannot be imported is an error, as are settings that contradict each other.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmodaler_ssattn.errors import HostError

EMBEDDED, UPSTREAM = "embedded", "upstream"

# Upstream's modules and the public names that we use; the runtime exports all of them itself.
_UPSTREAM_MODULES = {
    "config": "get_cfg configurable kfg",
    "modeling": "build_model add_config",
    "modeling.meta_arch.build": "META_ARCH_REGISTRY",
    "modeling.meta_arch.base_enc_dec": "BaseEncoderDecoder",
    "modeling.decoder.build": "DECODER_REGISTRY",
    "modeling.decoder.decoder": "Decoder",
    "modeling.decoder.updown_decoder": "UpDownDecoder",
    "modeling.encoder.build": "ENCODER_REGISTRY",
    "modeling.encoder.encoder": "Encoder",
    "modeling.encoder.updown_encoder": "UpDownEncoder",
    "modeling.predictor.base_predictor": "BasePredictor",
    "modeling.embedding.build": "EMBEDDING_REGISTRY",
    "modeling.embedding.visual_embed": "VisualBaseEmbedding",
    "modeling.embedding.token_embed": "TokenBaseEmbedding",
    "modeling.decode_strategy.build": "DECODE_STRATEGY_REGISTRY",
    "modeling.decode_strategy.decode_strategy": "DecodeStrategy",
    "losses.build": "LOSSES_REGISTRY build_losses",
    "scorer.build": "SCORER_REGISTRY build_scorer",
    "datasets.build": "DATASETS_REGISTRY build_xmodaler_train_loader build_xmodaler_valtest_loader",
    "evaluation.build": "EVALUATION_REGISTRY build_evaluation",
    "optim.build": "SOLVER_REGISTRY build_optimizer",
    "lr_scheduler.build": "LR_SCHEDULER_REGISTRY",
    "engine": "DefaultTrainer default_setup launch build_engine HookBase",
    "engine.build": "ENGINE_REGISTRY",
    "checkpoint": "XmodalerCheckpointer",
    "utils.events": "EventStorage get_event_storage",
    "utils.env": "seed_all_rng",
    "functional": "load_vocab",
}

_WAY_OUT = (
    "Either fix that clone (its requirements: torch, torchvision, pytorch_transformers, fvcore, omegaconf, jsonlines, "
    "json_lines, tensorboard, termcolor, tabulate, pycocotools, pycocoevalcap), or set "
    "XMODALER_SSATTN_HOST=embedded to use the runtime that this package contains."
)


def _find_upstream() -> str | None:
    """The folder of an importable X-modaler, else None; does not leave a half-imported namespace."""
    had = "xmodaler" in sys.modules
    try:
        spec = importlib.util.find_spec("xmodaler.config")
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        if not had:
            sys.modules.pop("xmodaler", None)
        return None
    return str(Path(spec.origin).parents[2])


def choose_host() -> tuple[str, str]:
    """The host to use, and the reason: a clause for the log; see the order in the module's docstring.

    Raises:
        HostError: a value is unknown, the clone does not exist, or settings contradict each other.
    """
    wanted = os.environ.get("XMODALER_SSATTN_HOST", "").strip().lower()
    home = os.environ.get("XMODALER_HOME", "").strip()
    if wanted not in ("", EMBEDDED, UPSTREAM):
        raise HostError(f"XMODALER_SSATTN_HOST: expected 'upstream' or 'embedded', got {wanted!r}.")

    if module := sys.modules.get("xmodaler.config"):
        imported = Path(str(module.__file__)).parents[2]
        if wanted == EMBEDDED:
            raise HostError(
                f"XMODALER_SSATTN_HOST=embedded, but X-modaler from {imported} is imported already. "
                "Unset the variable, or import xmodaler_ssattn before xmodaler."
            )
        if home and Path(home).resolve() != imported.resolve():
            raise HostError(
                f"XMODALER_HOME={home}, but X-modaler from {imported} is imported already. Unset one of the two."
            )
        return UPSTREAM, f"it is imported already, from {imported}"

    if wanted == EMBEDDED:
        return EMBEDDED, "XMODALER_SSATTN_HOST=embedded"

    if home:
        root = Path(home).expanduser().resolve()
        if not (root / "xmodaler" / "config").is_dir():
            raise HostError(
                f"XMODALER_HOME={home}: expected the folder of an X-modaler clone, but {root / 'xmodaler' / 'config'} "
                "does not exist. Set it to the folder that contains train_net.py, or unset it."
            )
        sys.path.insert(0, str(root))
        return UPSTREAM, f"XMODALER_HOME={home}"

    if found := _find_upstream():
        return UPSTREAM, f"it is importable, from {found}"
    if wanted == UPSTREAM:
        raise HostError(
            "XMODALER_SSATTN_HOST=upstream, but xmodaler.config cannot be imported. Set XMODALER_HOME to an "
            "X-modaler clone, or unset XMODALER_SSATTN_HOST to use the runtime that this package contains."
        )
    return EMBEDDED, "no X-modaler is importable and XMODALER_HOME is not set"


def _load_upstream() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for module_name, listed in _UPSTREAM_MODULES.items():
        full = f"xmodaler.{module_name}"
        try:
            module = importlib.import_module(full)
        except Exception as error:  # its imports run arbitrary code; the remedy is the same for all errors
            raise HostError(
                f"X-modaler was chosen ({REASON}), but importing {full} failed: {type(error).__name__}: {error}. "
                f"{_WAY_OUT}"
            ) from error
        wanted = listed.split()
        absent = [name for name in wanted if not hasattr(module, name)]
        if absent:
            raise HostError(
                f"X-modaler was chosen ({REASON}), but {full} has no {', '.join(absent)}: another version? This "
                f"package is written for commit ed1f559 of 2023-02-28. {_WAY_OUT}"
            )
        names.update({name: getattr(module, name) for name in wanted})
    names["comm"] = importlib.import_module("xmodaler.utils.comm")
    return names


def _load_embedded() -> dict[str, Any]:
    runtime = importlib.import_module("xmodaler_ssattn.runtime")
    return {name: getattr(runtime, name) for name in ("comm", *" ".join(_UPSTREAM_MODULES.values()).split())}


if TYPE_CHECKING:  # the names come from one of two packages

    def __getattr__(name: str) -> Any: ...


NAME, REASON = choose_host()
globals().update(_load_upstream() if NAME == UPSTREAM else _load_embedded())
logging.getLogger(__name__).info("Host: %s X-modaler (%s).", NAME, REASON)


def describe() -> str:
    """One line with the chosen host and the reason."""
    what = "upstream X-modaler" if NAME == UPSTREAM else "the embedded runtime"
    return f"Host: {what} ({REASON})."
