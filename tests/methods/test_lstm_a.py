"""LSTM-A: attributes by hand, the model against one caption at a time, and a run whose captions have no boxes."""

from types import SimpleNamespace

import h5py
import pytest
import torch

from slow_beam import slow_beam
from test_two_hosts import ROOT, SMALL, curve, needs_upstream, sample  # noqa: F401  (sample is a fixture)
from toys import TWO_IMAGES, WORDS, captions_of, for_test, toy_config, toy_model, toy_sample, trained_once
from xmodaler_ssattn import host, keys
from xmodaler_ssattn.caption import Caption
from xmodaler_ssattn.cli.app import LoadedModels
from xmodaler_ssattn.cli.main import main, parse
from xmodaler_ssattn.engine.best import best_hook
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.results import read_results
from xmodaler_ssattn.host import build_losses, kfg
from xmodaler_ssattn.methods.lstm_a import attributes
from xmodaler_ssattn.modeling.sampling import sample_captions

SETTING = {
    "MODEL__DECODER": "LSTMADecoder",
    "MODEL__ENCODER": "Encoder",
    "MODEL__VISUAL_EMBED__NAME": "VisualIdentityEmbedding",
    "MODEL__TOKEN_EMBED__DIM": 8,
    "MODEL__SS_ATTENTION__ENABLED": False,
    "LOSSES__NAMES": ["CrossEntropy"],
}


def test_attributes_are_the_largest_probabilities_over_the_real_regions_without_background():
    probs = torch.tensor([[[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], [[0.1, 0.2, 0.7], [0.0, 1.0, 0.0]]])
    # second image: its second region is padding
    found = attributes(probs, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.3], [0.2, 0.7]]))


def test_the_loss_is_that_of_one_caption_at_a_time(tmp_path):
    """The obvious version: attributes, mean region and words go through one LSTM in turn; five and two regions."""
    cfg, model = toy_config(tmp_path, **SETTING), toy_model(tmp_path, **SETTING)
    decoder, surprises = model.decoder, []
    for image in TWO_IMAGES:
        best = [max(float(region[c]) for region in image[keys.CLASS_PROBS]) for c in range(1, 4)]
        state = decoder.lstm(decoder.attribute_fc(torch.tensor([best])))
        seen = decoder.lstm(decoder.vfeat_fc(image[kfg.ATT_FEATS].mean(0, keepdim=True)), state)
        for tokens, targets in zip(image[kfg.G_TOKENS_IDS], image[kfg.G_TARGET_IDS], strict=True):
            state = seen
            for token, target in zip(tokens, targets, strict=True):
                word = model.token_embed({kfg.G_TOKENS_IDS: token.view(1)})[kfg.G_TOKEN_EMBED]
                state = decoder.lstm(word, state)
                logits = model.predictor({kfg.G_HIDDEN_STATES: [state[0]]})[kfg.G_LOGITS]
                surprises.append(-logits.log_softmax(1)[0, target])
    losses, gradients = trained_once(cfg, model)
    assert losses["CrossEntropy Loss(G)"].item() == pytest.approx(torch.stack(surprises).mean().item(), rel=1e-5)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    # Without dropout, encoding an image once changes nothing: the states follow their captions.
    shared = {**SETTING, "MODEL__SHARE_REGION_DROPOUT": True}
    same = trained_once(toy_config(tmp_path, **shared), toy_model(tmp_path, **shared))[0]
    torch.testing.assert_close(same, losses)


def test_beam_search_equals_the_slow_beam_and_gives_plain_captions_with_greedy_ones(tmp_path):
    model = toy_model(tmp_path, **SETTING, INFERENCE__GT_ATTENTION=True).eval().requires_grad_(False)
    model.predictor.logits.weight.mul_(20.0)
    samples = [for_test(toy_sample(i, regions)) for i, regions in ((1, 4), (2, 2), (3, 3), (4, 1))]
    captions = captions_of(model, samples)
    for one, caption in zip(samples, captions, strict=True):
        words, score, _ = slow_beam(model, one, 3, 6)
        assert str(caption) == " ".join(WORDS[w - 1] for w in words)
        assert caption.log_prob == pytest.approx(score, abs=1e-5)
        assert caption.image_size == (100.0, 100.0)
        assert type(caption) is Caption and type(caption.greedy) is Caption and caption.references == ()
    assert len(set(captions)) > 1
    torch.manual_seed(0)
    sampled = sample_captions(model, model.preprocess_batch(samples), 3)
    assert sampled.sents.shape == (12, 6) and not sampled.regions.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MODEL__SS_ATTENTION__ENABLED": True}, "ENABLED: expected False"),
        ({"MODEL__TOKEN_EMBED__DIM": 7}, "TOKEN_EMBED.DIM: expected MODEL.DECODER_DIM 8"),
        ({"MODEL__SS_ATTENTION__NUM_CLASSES": 1}, "NUM_CLASSES: expected 2 or more"),
        ({"MODEL__META_ARCHITECTURE": "RnnAttEncoderDecoder"}, "works only inside GroundedCaptioner"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        toy_model(tmp_path, **SETTING | change)


def test_what_needs_an_attention_is_refused_before_training(tmp_path):
    for loss, message in (
        ("WordAttentionLoss", "needs an attention, but MODEL.DECODER LSTMADecoder"),
        ("GroundingLoss", "beta"),
    ):
        with pytest.raises(UserError, match=message):
            build_losses(toy_config(tmp_path, **SETTING | {"LOSSES__NAMES": ["CrossEntropy", loss]}))
    best = {"SOLVER__KEEP_BEST": "val/F1_loc", "INFERENCE__NAME": "Flickr30kEntitiesEvaler", "DATASETS__VAL": "any"}
    cfg = toy_config(tmp_path, **SETTING, **best)
    with pytest.raises(UserError, match="does not give F1_loc"):
        best_hook(cfg)


def test_regions_without_class_probabilities_are_refused_before_training(sample, tmp_path, capsys):  # noqa: F811
    bare = tmp_path / "regions.h5"
    with h5py.File(sample / "regions.h5") as source, h5py.File(bare, "w") as file:
        file.attrs.update(source.attrs)
        for name in source:
            if name != "class_probs":
                source.copy(name, file)
    vocabulary = len((sample / "vocabulary.txt").read_text().split()) + 1
    options = SMALL | {"MODEL.VOCAB_SIZE": vocabulary, "MODEL.TOKEN_EMBED.DIM": 16, "DATALOADER.REGIONS": bare}
    options |= {"OUTPUT_DIR": tmp_path / "run", "DATALOADER.SAMPLE_SCENES": 0}
    words = [str(word) for pair in options.items() for word in pair]
    assert main(["train", "--config-file", str(CONFIG), "--data", str(sample), *words]) == 2
    said = capsys.readouterr().err
    assert "the config reads class probabilities" in said and "`xmodaler prepare regions --classifier FILE`" in said


CONFIG = ROOT / "configs" / "sample" / "lstm_a.yaml"


def test_an_epoch_on_the_sample_scenes_gives_captions_without_boxes_and_the_tools_say_so(sample, tmp_path, capsys):  # noqa: F811
    vocabulary = len((sample / "vocabulary.txt").read_text().split()) + 1
    out = tmp_path / "run"
    options = SMALL | {
        "MODEL.VOCAB_SIZE": vocabulary,
        "MODEL.TOKEN_EMBED.DIM": 16,
        "SOLVER.EPOCH": 1,
        "OUTPUT_DIR": out,
    }
    words = [str(word) for pair in options.items() for word in pair]
    assert main(["train", "--config-file", str(CONFIG), "--data", str(sample), *words]) == 0
    assert "No grounding scores: MODEL.DECODER LSTMADecoder has no attention." in capsys.readouterr().out
    results = read_results(out / "results" / "test_epoch_1.json")
    assert results.images and all(type(image.caption) is Caption and image.grounded is None for image in results.images)
    assert {"CIDEr", "greedy_CIDEr"} <= set(results.header["scores"]) and "F1_all" not in results.header["scores"]
    assert "ground_by" not in results.header

    regions, page = str(sample / "regions.h5"), tmp_path / "page"
    told = tmp_path / "captions.json"
    assert main(["caption", "--regions", regions, "--ids", "100001", "--weights", str(out), "--json", str(told)]) == 0
    assert "MODEL.DECODER LSTMADecoder has no attention: the captions have no boxes." in capsys.readouterr().out
    assert type(read_results(told).images[0].caption) is Caption
    file = str(out / "results" / "test_epoch_1.json")
    assert main(["report", file, "--annotations", str(sample), "--out", str(page)]) == 0
    assert "its captions have no boxes" in (page / "data" / "index.js").read_text()
    assert (
        main(
            [
                "score",
                "captions",
                "--references",
                str(sample / "captions_test.json"),
                "--predictions",
                file,
                "--greedy",
                "--metrics",
                "CIDEr",
            ]
        )
        == 0
    )
    assert main(["export", "coco", file, "--greedy", "--out", str(tmp_path / "coco.json")]) == 0
    assert main(["export", "coco-boxes", file, "--out", str(tmp_path / "boxes")]) == 2
    assert "its caption has no boxes" in capsys.readouterr().err


@needs_upstream
def test_both_hosts_give_one_loss_curve(sample, tmp_path):  # noqa: F811
    change = {"MODEL.TOKEN_EMBED.DIM": "16", "SOLVER.EPOCH": "1"}
    upstream, embedded = (curve(host, sample, tmp_path, 0, CONFIG, **change) for host in ("upstream", "embedded"))
    assert (upstream["host"], len(upstream["losses"])) == ("upstream", 10)
    assert embedded["losses"] == pytest.approx(upstream["losses"], abs=1e-4)


@pytest.mark.skipif(host.NAME != host.UPSTREAM, reason="X-modaler's own decoder is compared on its host")
def test_with_copied_weights_it_equals_x_modalers_decoder(tmp_path, monkeypatch):
    from xmodaler.modeling.decoder.attribute_decoder import AttributeDecoder

    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    model = toy_model(tmp_path, **SETTING).eval()
    stock = AttributeDecoder(hidden_size=8, token_embed_dim=8, visual_feat_dim=6, attribute_dim=3, dropout=0.0)
    stock.load_state_dict(model.decoder.state_dict())  # the same names, or this raises
    batch = model.preprocess_batch([for_test(toy_sample(1, 4)), for_test(toy_sample(2, 4))])
    ours = dict(model.encode(batch))
    found = attributes(batch[keys.CLASS_PROBS], batch[kfg.ATT_MASKS])
    theirs = stock.preprocess({kfg.ATTRIBUTE: found, kfg.GLOBAL_FEATS: batch[kfg.ATT_FEATS].mean(1)})
    for t, words in enumerate(([0, 0], [1, 3])):
        model.step(ours, torch.tensor(words), t)
        theirs.update(model.token_embed({kfg.G_TOKENS_IDS: torch.tensor(words)}))
        theirs.update(stock(theirs))
        torch.testing.assert_close(ours[kfg.G_HIDDEN_STATES][0], theirs[kfg.G_HIDDEN_STATES][0])


def test_the_app_says_that_there_are_no_boxes_to_show(monkeypatch):
    cfg = SimpleNamespace(MODEL=SimpleNamespace(DECODER="LSTMADecoder"))
    loaded = SimpleNamespace(cfg=cfg)
    monkeypatch.setattr("xmodaler_ssattn.cli.captioning.load_captioner", lambda *args, **kwargs: loaded)
    with pytest.raises(UserError, match="run: MODEL.DECODER LSTMADecoder has no attention, so there are no boxes"):
        LoadedModels(parse(["app", "--weights", "run"]))
