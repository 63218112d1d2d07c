"""``CfgNode``: the config tree, with safe yaml and errors that name the key, the file and the nearest known key.

``kfg``: the keys of a sample and of a batch. Each value is the key's own name, as in upstream.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fvcore.common.config import CfgNode as _CfgNode

from xmodaler_ssattn.configuring import COMMAND_LINE, Setting, flatten, merge, nested, read_config
from xmodaler_ssattn.errors import UserError

from .defaults import DEFAULTS


class CfgNode(_CfgNode):
    """fvcore's config node. Merging is all or nothing: if there are problems, all are listed and nothing is changed.

    Raises:
        UserError: in any method, a key is unknown, a value has the wrong type, or a file cannot be read.
    """

    @classmethod
    def load_yaml_with_base(cls, filename: str | os.PathLike, allow_unsafe: bool = False) -> dict[str, Any]:
        """The nested dict of a yaml file and its ``_BASE_`` files."""
        _refuse_unsafe(allow_unsafe)
        return nested({key: setting.value for key, setting in read_config(filename).items()}, str(filename))

    def load_from_file_tmp(self, cfg_filename: str | os.PathLike, allow_unsafe: bool = False) -> CfgNode:
        """The raw content of a yaml file, for ``add_config``: no defaults, nothing checked against them."""
        return type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe))

    def merge_from_file(self, cfg_filename: str | os.PathLike, allow_unsafe: bool = False) -> None:
        """Merge a yaml file and its bases into this config."""
        _refuse_unsafe(allow_unsafe)
        merge(self, read_config(cfg_filename), none_allowed=True)

    def merge_from_other_cfg(self, cfg_other: Mapping[str, Any]) -> None:
        """Merge another config into this one."""
        settings = {key: Setting(value, "the other config") for key, value in flatten(cfg_other).items()}
        merge(self, settings, none_allowed=True)

    def merge_from_list(self, cfg_list: list) -> None:
        """Set ``[KEY, value, KEY, value, ...]``."""
        if len(cfg_list) % 2:
            raise UserError(f"Expected KEY VALUE pairs, got {len(cfg_list)} words: {' '.join(map(str, cfg_list))}.")
        pairs = zip(cfg_list[0::2], cfg_list[1::2], strict=True)
        merge(self, {str(key): Setting(value, COMMAND_LINE) for key, value in pairs}, none_allowed=True)


def _refuse_unsafe(allow_unsafe: bool) -> None:
    if allow_unsafe:
        raise UserError("allow_unsafe=True is refused: a config file may contain only plain values.")


def get_cfg() -> CfgNode:
    """A fresh copy of the default config."""
    return CfgNode(DEFAULTS)


_NAMES = """
    IDS SEQ_PER_SAMPLE SAMPLE_PER_SAMPLE
    U_TOKENS_IDS U_TOKENS_IDS_WO_MASK G_TOKENS_IDS U_TOKENS_TYPE G_TOKENS_TYPE U_TOKEN_EMBED G_TOKEN_EMBED
    TOKENS_MASKS EXT_U_TOKENS_MASKS EXT_G_TOKENS_MASKS
    U_TARGET_IDS G_TARGET_IDS V_TARGET V_TARGET_LABELS ITM_NEG_LABEL
    RELATION ATTRIBUTE
    ATT_FEATS ATT_FEATS_WO_MASK ATT_MASKS EXT_ATT_MASKS ATT_FEATS_LOC P_ATT_FEATS GLOBAL_FEATS
    U_HIDDEN_STATES G_HIDDEN_STATES U_CELL_STATES G_CELL_STATES HISTORY_STATES ENC_HISTORY_STATES
    U_LOGITS G_LOGITS V_LOGITS V_REGRESS ITM_LOGITS
    G_SENTS_IDS G_LOGP OUTPUT DECODE_BY_SAMPLE REWARDS SS_PROB TIME_STEP
    SEMANTICS_IDS SEMANTICS_MASK EXT_SEMANTICS_MASKS SEMANTICS_LABELS SEMANTICS_MISS_LABELS
    SEMANTICS_PRED SEMANTICS_FEATS SEMANTICS_POS_PRED
"""

kfg = CfgNode({name: name for name in _NAMES.split()})
kfg.freeze()
