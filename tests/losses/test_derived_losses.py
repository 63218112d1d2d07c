"""A loss of another project that is derived from one of ours gets what its base gets."""

from types import SimpleNamespace

import pytest

from toys import toy_config
from xmodaler_ssattn.cli.training import check_flags
from xmodaler_ssattn.data.mapper import Flickr30kEntitiesDataset
from xmodaler_ssattn.data.word_pairs import pair_rule
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import ENGINE_REGISTRY, LOSSES_REGISTRY
from xmodaler_ssattn.partners import losses_of


@pytest.fixture
def derived(monkeypatch):
    """Registers a class "Derived" of the base of that name, until the test ends."""

    def register(registry, base):
        monkeypatch.setitem(registry._obj_map, "Derived", type("Derived", (registry.get(base),), {}))

    return register


def test_a_derived_loss_is_found_and_a_stranger_is_not(tmp_path, derived):
    derived(LOSSES_REGISTRY, "GroundingLoss")
    cfg = toy_config(tmp_path, LOSSES__NAMES=["CrossEntropy", "Derived", "unknown"])
    assert losses_of(cfg, "GroundingLoss", "unknown") == ["Derived", "unknown"]
    assert losses_of(cfg, "WordAttentionLoss") == []


def test_the_mapper_makes_the_targets_and_pairs_of_derived_losses(tmp_path, derived):
    names = {"LOSSES__NAMES": ["CrossEntropy", "Derived"]}
    derived(LOSSES_REGISTRY, "GroundingLoss")
    assert Flickr30kEntitiesDataset.from_config(toy_config(tmp_path, **names), "train")["targets"] == "image"
    derived(LOSSES_REGISTRY, "WordAttentionLoss")
    assert pair_rule(toy_config(tmp_path, **names)).positives == "threshold"


def test_a_derived_self_critical_stage_is_one(tmp_path, derived):
    args = SimpleNamespace(eval_only=False, resume=False)
    names = {"LOSSES__NAMES": ["SelfCriticalLoss"]}
    with pytest.raises(UserError, match="ENGINE.NAME is DefaultTrainer"):
        check_flags(args, toy_config(tmp_path, **names))
    derived(ENGINE_REGISTRY, "SelfCriticalTrainer")
    check_flags(args, toy_config(tmp_path, **names, ENGINE__NAME="Derived"))
