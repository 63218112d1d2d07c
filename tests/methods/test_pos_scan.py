"""POS-SCAN: the matcher by hand, what it learns on drawn scenes, its file of pairs, and a run that reads it."""

import json
import math

import numpy as np
import pytest
import torch

from engine.rl_world import DOG, MAN, RUNS, A, all_images, rl_config, write_world
from test_two_hosts import ROOT, curve, needs_upstream
from toys import RAW
from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.data.annotations import read_annotations
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import build_engine, build_scorer, kfg
from xmodaler_ssattn.methods.matcher_training import Kept, batch_of
from xmodaler_ssattn.methods.matching_reward import load_matcher, matching_scores, save_matcher
from xmodaler_ssattn.methods.pos_scan import read_captioned, write_targets
from xmodaler_ssattn.methods.scan import Matcher, caption_scores, match, ranking_loss
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.scorer import GroundedScorer
from xmodaler_ssattn.worlds.drawn import draw_dataset

SETTINGS = {"size": 32, "word_size": 16, "batch": 20, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "data"
    draw_dataset(folder, num_images=48, feature_dim=32)
    return folder


@pytest.fixture(scope="module")
def written(sample):
    """The pairs, image by image, and the matcher's losses."""
    history = write_targets(sample, sample / "regions.h5", sample / "match.json", epochs=12, **SETTINGS)
    return {
        image["image_id"]: image["pairs"] for image in json.loads((sample / "match.json").read_text())["images"]
    }, history


def slow_match(v, w):
    """One image, one caption, with loops."""
    dots = [[float(a @ b) for b in w] for a in v]
    s = [[x if x > 0 else 0.1 * x for x in row] for row in dots]
    s = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in s]
    attention, cosines = [], []
    for j, word in enumerate(w):
        weights = [math.exp(9 * row[j]) for row in s]
        g = [weight / sum(weights) for weight in weights]
        context = sum(weight * region for weight, region in zip(g, v, strict=True))
        attention.append(g)
        cosines.append(float(context @ word) / float(context.norm() * word.norm()))
    return attention, cosines


def test_the_attention_and_the_cosines_are_those_of_the_loops_and_padding_changes_nothing():
    torch.manual_seed(0)
    v, w = (torch.nn.functional.normalize(torch.randn(2, n, 4).double(), dim=-1) for n in (3, 2))
    regions, nouns = torch.tensor([[1.0, 1, 1], [1, 1, 0]]), torch.tensor([[1.0, 1], [1, 0]])
    g, r = match(v, w, regions, nouns)
    for caption, words in enumerate((2, 1)):
        for image, count in enumerate((3, 2)):
            attention, cosines = slow_match(v[image, :count], w[caption, :words])
            np.testing.assert_allclose(g[caption, image, :words, :count], attention, atol=1e-12)
            np.testing.assert_allclose(r[caption, image, :words], cosines, atol=1e-12)
    assert g[0, 1, :, 2].tolist() == [0, 0]
    scores = caption_scores(r, nouns)
    torch.testing.assert_close(scores[0, 0], (r[0, 0, 0] + r[0, 0, 1]) / 2)
    torch.testing.assert_close(scores[1, 0], r[1, 0, 0])
    assert caption_scores(r, torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


def test_the_hinge_counts_the_wrong_pairs_of_both_directions():
    # Caption 0: image 1 is 0.1 below, which costs 0.1. Caption 1: image 0 is 0.3 below, 0. Image 0: caption 1 is 0.5
    # below, 0. Image 1: caption 0 is 0.1 above, 0.3. (0.1 + 0.3) / 2 captions
    assert ranking_loss(torch.tensor([[0.9, 0.8], [0.4, 0.7]])).item() == pytest.approx(0.2)
    assert ranking_loss(torch.eye(3)).item() == 0


def test_words_after_a_caption_do_not_change_its_nouns():
    torch.manual_seed(0)
    matcher = Matcher(feature_dim=4, vocab_size=9, size=8, word_size=5)
    nouns = torch.tensor([[1, 2]])
    short, long = (matcher.encode_nouns(torch.tensor([ids]), nouns) for ids in ([3, 4, 5], [3, 4, 5, 0, 0]))
    torch.testing.assert_close(short, long)
    torch.testing.assert_close(long.norm(dim=-1), torch.ones(1, 2))


def test_the_pairs_are_distributions_over_at_most_8_regions_of_object_words(sample, written):
    pairs, history = written
    assert history[-1] < history[0]
    images = {image["image_id"]: image for image in read_annotations(sample / "train.json", "train").images}
    assert set(pairs) == set(images)
    for image_id, table in pairs.items():
        rows: dict[tuple[int, int], list[float]] = {}
        for caption, word, _, weight in table:
            rows.setdefault((caption, word), []).append(weight)
        assert all(len(row) <= 8 and sum(row) == pytest.approx(1, abs=1e-4) for row in rows.values())
        heads = {
            (number, phrase["head"])
            for number, caption in enumerate(images[image_id]["captions"])
            for phrase in caption["phrases"]
            if phrase["head"] is not None
        }
        assert heads & set(rows)


def test_without_boxes_the_matcher_finds_objects_above_chance(sample, written):
    store, hits, chance = RegionStore(sample / "regions.h5"), [], []
    for image in read_annotations(sample / "train.json", "train").images:
        boxes = store.boxes_px(image["image_id"], None)
        for caption, word, region, weight in written[0][image["image_id"]]:
            for phrase in image["captions"][caption]["phrases"]:
                if phrase["head"] == word and phrase["boxes"]:
                    right = (iou(np.array(phrase["boxes"]), boxes) > 0.5).any(0)
                    hits.append(weight * right[region])
                    chance.append(weight * right.mean())
    assert sum(hits) > 1.4 * sum(chance) > 0


def test_the_matcher_finds_the_image_of_a_caption(sample, written):
    """Recall at 1 among the 40 training images, of which chance finds 1/40; measured with three seeds: 11 to 20."""
    store = RegionStore(sample / "regions.h5")
    images, _ = read_captioned(sample, store)
    matcher = load_matcher(sample / "match.pth", sample / "vocabulary.txt", 32)
    firsts = [image.tokens[0] for image in images], [image.nouns[0] for image in images]
    inputs = batch_of(store, [image.image_id for image in images], *firsts, None, torch.device("cpu"))
    scores = caption_scores(matcher(inputs)[1], inputs["noun_mask"])
    found = int((scores.argmax(1) == torch.arange(len(images))).sum())
    assert len(images) == 40 and found >= 8


def test_a_stopped_training_of_the_matcher_continues(sample, tmp_path, monkeypatch, capsys):
    def train(name, **changes):
        return write_targets(sample, sample / "regions.h5", tmp_path / name, **({"epochs": 4} | SETTINGS | changes))

    whole = train("whole.json")
    with monkeypatch.context() as patched:
        save = Kept.save

        def save_twice(kept, matcher, optimiser, history):
            if len(history) == 3:
                raise KeyboardInterrupt
            save(kept, matcher, optimiser, history)

        patched.setattr(Kept, "save", save_twice)
        with pytest.raises(KeyboardInterrupt):
            train("stopped.json")
    assert {path.name for path in tmp_path.iterdir()} == {"whole.json", "whole.pth", "stopped.part"}
    damaged = bytearray((tmp_path / "stopped.part").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.part").write_bytes(damaged)
    (tmp_path / "other.part").write_bytes((tmp_path / "stopped.part").read_bytes())
    capsys.readouterr()

    assert train("stopped.json") == whole and "continues after epoch 2" in capsys.readouterr().err
    assert (tmp_path / "stopped.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert train("damaged.json") == whole and "begins again" in capsys.readouterr().err
    assert len(train("other.json", seed=1)) == 4 and "other data or settings" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.part"))


def test_a_run_reads_the_file_by_its_name_in_the_data_folder(sample, written, tmp_path):
    changes = {"SOLVER.EPOCH": "1"}
    losses = curve("embedded", sample, tmp_path, 0, ROOT / "configs/sample/pos_scan.yaml", **changes)["losses"]
    assert len(losses) == 10 and sum(losses[-3:]) < sum(losses[:3])
    lines = [json.loads(line) for line in (tmp_path / "embedded_0" / "metrics.json").read_text().splitlines()]
    assert "Word Attention Loss" in set().union(*lines)


@needs_upstream
def test_both_hosts_give_one_loss_curve(sample, written, tmp_path):
    config = ROOT / "configs/sample/pos_scan.yaml"
    found = (curve(host, sample, tmp_path, 0, config, **{"SOLVER.EPOCH": "1"}) for host in ("upstream", "embedded"))
    upstream, embedded = (history["losses"] for history in found)
    assert len(upstream) == 10 and embedded == pytest.approx(upstream, abs=1e-4)


def test_the_command_writes_into_the_data_folder_and_names_what_is_missing(sample, tmp_path, capsys):
    out = tmp_path / "pairs.json"
    arguments = ["--data", str(sample), "--out", str(out), "--epochs", "1", "--device", "cpu", "--size", "8"]
    assert main(["prepare", "match", *arguments]) == 0
    assert load_matcher(out.with_suffix(".pth"), sample / "vocabulary.txt", 32).settings["size"] == 8
    assert out.is_file() and str(out) in capsys.readouterr().out
    assert main(["prepare", "match", "--data", str(tmp_path), "--epochs", "0"]) != 0
    message = capsys.readouterr().err
    assert "--epochs: expected at least 1, got 0" in message and "regions.h5 does not exist" in message
    assert "`xmodaler prepare annotations` writes it" in message


# --- the second stage -----------------------------------------------------------------------------------
def rl_world(folder, **overrides):
    write_world(folder)
    torch.manual_seed(0)
    matcher = Matcher(feature_dim=RAW, vocab_size=7, size=8, word_size=5)
    save_matcher(folder / "match.pth", matcher, folder / "vocabulary.txt")
    return rl_config(folder, SCORER__NAME="MatchingScorer", **overrides)


def test_the_score_of_a_caption_is_the_mean_cosine_of_its_nouns():
    """Two regions and two words with known vectors: R of each noun by the loops of ``slow_match``."""
    torch.manual_seed(0)
    matcher = Matcher(feature_dim=4, vocab_size=9, size=8, word_size=5)
    feats, mask = torch.randn(2, 3, 4), torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    is_noun = np.array([False, False, True, True, False, False, False, False, False])
    captions = [[1, 2, 3, 0], [4, 5], [3, 1, 0], [2, 4, 3]]  # two of each image; the second has no noun
    found = matching_scores(matcher, feats, mask, captions, is_noun)
    assert found[1] == 0
    for at, image, nouns in ((0, 0, [1, 2]), (2, 1, [0]), (3, 1, [0, 2])):
        v = matcher.encode_regions(feats[image, : 3 - image])
        w = matcher.encode_nouns(torch.tensor([captions[at]]), torch.tensor([nouns]))[0]
        assert found[at] == pytest.approx(np.mean(slow_match(v.detach(), w.detach())[1]), abs=1e-5)
    assert matching_scores(matcher, feats, mask, [[4], [5]], is_noun).tolist() == [0, 0]


def test_the_reward_is_cider_plus_the_weighted_score_and_a_run_logs_both(tmp_path):
    cfg = rl_world(tmp_path, SCORER__MATCHING_WEIGHT=2.0, LOSSES__NAMES=["SelfCriticalLoss"], SOLVER__EPOCH=2)
    trainer = build_engine(cfg)
    trainer.resume_or_load(resume=False)
    batch = all_images(trainer)
    inputs = {
        **batch,
        kfg.IDS: [11, 12, 13, 14],
        kfg.G_SENTS_IDS: torch.tensor([[A, MAN, RUNS, 0], [A, DOG, 0, 0], [A, A, 0, 0], [MAN, 0, 0, 0]]),
    }
    out = trainer.scorer(inputs)
    plain = GroundedScorer.__call__(trainer.scorer, inputs)
    captions = [[A, MAN, RUNS, 0], [A, DOG, 0], [A, A, 0], [MAN, 0]]
    nouns = np.array([False, False, True, True, False, False, False])  # "man" and "dog"
    assert trainer.scorer.is_noun.tolist() == nouns.tolist()
    each = matching_scores(trainer.scorer.matcher, batch[kfg.ATT_FEATS], batch[kfg.ATT_MASKS], captions, nouns)
    np.testing.assert_allclose(out[kfg.REWARDS], plain[kfg.REWARDS] + 2 * each)
    assert out["Matching"] == pytest.approx(each.mean()) and out["CiderD"] == plain["CiderD"]
    trainer.train()
    assert len(trainer.storage.history("rl/Matching").values()) == trainer.max_iter


def test_a_matcher_that_is_missing_broken_or_of_other_data_is_refused_before_training(tmp_path):
    cfg = rl_world(tmp_path)
    with pytest.raises(UserError, match="expected a number above 0 with MatchingScorer"):
        build_scorer(rl_world(tmp_path, SCORER__MATCHING_WEIGHT=0.0))
    (tmp_path / "vocabulary.txt").write_text("a\nman\ndog\nruns\nthen\nUNK\n")
    with pytest.raises(UserError, match=r"`xmodaler prepare match`(.|\n)*another vocabulary"):
        build_scorer(cfg)
    with pytest.raises(UserError, match=r"reads features of 6 numbers, MODEL.VISUAL_EMBED.IN_DIM is 5"):
        load_matcher(tmp_path / "match.pth", tmp_path / "vocabulary.txt", 5)
    torch.save({"model": {}, "settings": {"size": 3}}, tmp_path / "match.pth")
    with pytest.raises(UserError, match="is not a matcher"):
        build_scorer(cfg)
    (tmp_path / "match.pth").unlink()
    with pytest.raises(UserError, match=r"match.pth does not exist; `xmodaler prepare match` writes it"):
        build_scorer(cfg)
