"""What another X-modaler project sees after ``import xmodaler_ssattn``."""

import pytest
import torch

import xmodaler_ssattn
from toys import for_test, toy_config, toy_sample
from xmodaler_ssattn import host
from xmodaler_ssattn.caption import GroundedCaption


def test_our_names_are_in_the_hosts_registries():
    for registry, names in (
        (host.META_ARCH_REGISTRY, ["GroundedCaptioner"]),
        (host.DECODER_REGISTRY, ["SSAttentionDecoder"]),
        (host.DECODE_STRATEGY_REGISTRY, ["GroundedBeamSearcher", "GroundedGreedyDecoder"]),
        (host.LOSSES_REGISTRY, ["GroundingLoss"]),
        (host.DATASETS_REGISTRY, ["Flickr30kEntitiesDataset"]),
        (host.EVALUATION_REGISTRY, ["Flickr30kEntitiesEvaler"]),
    ):
        for name in names:
            assert registry.get(name) is getattr(xmodaler_ssattn, name)


def test_build_model_with_our_class_names_gives_our_classes(tmp_path):
    model = host.build_model(toy_config(tmp_path))
    assert type(model) is xmodaler_ssattn.GroundedCaptioner
    assert type(model.decoder) is xmodaler_ssattn.SSAttentionDecoder
    assert type(model.beam_searcher) is xmodaler_ssattn.GroundedBeamSearcher
    assert type(model.greedy_decoder) is xmodaler_ssattn.GroundedGreedyDecoder


def test_adding_our_config_twice_does_no_harm_and_keeps_values(tmp_path):
    cfg = toy_config(tmp_path, MODEL__SS_ATTENTION__LAMBDA=0.75)
    before = cfg.dump()
    host.add_config(cfg, cfg.clone())
    assert cfg.MODEL.SS_ATTENTION.LAMBDA == 0.75
    assert cfg.dump() == before


def test_the_stock_test_loop_hands_our_captions_on_unchanged(tmp_path):
    class Keep:
        def eval(self, results, epoch):
            self.results, self.epoch = results, epoch
            return {"val/CIDEr": 1.0}

    cfg = toy_config(tmp_path, INFERENCE__ID_KEY="image_id", INFERENCE__VALUE="caption")
    model = host.build_model(cfg)
    loader = [[for_test(toy_sample(3, 4)), for_test(toy_sample(5, 2))], [for_test(toy_sample(9, 3))]]
    keep = Keep()
    scores = host.DefaultTrainer.test(cfg, model, loader, keep, epoch=4)
    assert scores == {"val/CIDEr": 1.0} and keep.epoch == 4
    assert [result["image_id"] for result in keep.results] == [3, 5, 9]
    for result in keep.results:
        caption = result["caption"]
        assert type(caption) is GroundedCaption and type(caption.greedy) is GroundedCaption
        assert str(caption) == " ".join(word.text for word in caption.words)


def test_the_model_runs_where_its_parameters_are_without_cuda(tmp_path):
    model = host.build_model(toy_config(tmp_path)).to(torch.float64)
    sample = {
        key: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in for_test(toy_sample(1, 3)).items()
    }
    out = model.eval()(model.preprocess_batch([sample]), use_beam_search=True, output_sents=True)
    assert len(out[host.kfg.OUTPUT]) == 1


def test_a_name_is_registered_once():
    with pytest.raises(AssertionError):
        host.DECODER_REGISTRY.register(xmodaler_ssattn.SSAttentionDecoder)
