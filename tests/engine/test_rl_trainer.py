"""SelfCriticalTrainer on a world of four images: what a step does, logs and refuses, and that it learns."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from engine.rl_world import all_images, rl_config, rl_trainer, write_world
from xmodaler_ssattn import host, keys
from xmodaler_ssattn.engine.rl_trainer import LOSS, SelfCriticalTrainer, learns_from_captions
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import LOSSES_REGISTRY, NAME, UPSTREAM, EventStorage, HookBase, kfg, seed_all_rng
from xmodaler_ssattn.modeling.sampling import sample_captions
from xmodaler_ssattn.stopping import Stopped, polite_stops


def expected_reward(trainer, samples=100, seed=0) -> float:
    """The mean reward of many drawn captions of every image; leaves the random state as it was."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    trainer.model.eval()
    batch = all_images(trainer)
    drawn = sample_captions(trainer.model, batch, samples)
    rewards = trainer._score(batch, *(part.view(4, samples, -1) for part in drawn))
    trainer.model.train()
    torch.set_rng_state(state)
    return float(rewards[kfg.REWARDS].mean())


@pytest.mark.parametrize("baseline", ["greedy", "mean"])
def test_forty_steps_raise_the_expected_reward(tmp_path, baseline):
    trainer = rl_trainer(tmp_path, SCORER__BASELINE=baseline)
    before = expected_reward(trainer)
    trainer.train()
    after = expected_reward(trainer)
    assert before < 1.0 and after > before + 0.6, (before, after)
    assert trainer.max_iter == 40


def test_a_grounding_reward_teaches_to_name_what_the_model_looks_at(tmp_path):
    overrides = {"SCORER__TYPES": [], "SCORER__WEIGHTS": [], "LOSSES__NAMES": ["SelfCriticalLoss"]}
    with pytest.raises(UserError, match=r"SCORER\.TYPES"):
        rl_trainer(tmp_path, SCORER__GROUNDING_WEIGHT=5.0, **overrides)
    trainer = rl_trainer(tmp_path, SCORER__GROUNDING_WEIGHT=5.0, SCORER__WEIGHTS=[0.0])
    before = expected_reward(trainer)
    trainer.train()
    assert expected_reward(trainer) > before + 0.5


def test_a_run_is_repeatable(tmp_path):
    weights = []
    for _ in range(2):
        trainer = rl_trainer(tmp_path, SOLVER__EPOCH=3)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def run_steps(trainer, count=1):
    with EventStorage(0) as storage:
        trainer.storage = storage
        for trainer.iter in range(count):
            trainer.run_step()
    return storage


def test_a_step_samples_and_differentiates_without_dropout_and_leaves_the_model_training(tmp_path, monkeypatch):
    trainer = rl_trainer(tmp_path, MODEL__PRED_DROPOUT=0.5, MODEL__TOKEN_EMBED__DROPOUT=0.5)
    modes, original = [], type(trainer.model)._forward

    def spy(self, batch):
        modes.append((self.training, self.predictor.training, torch.is_grad_enabled()))
        return original(self, batch)

    monkeypatch.setattr(type(trainer.model), "_forward", spy)
    run_steps(trainer)
    assert modes == [(False, False, True)] and trainer.model.training


def test_the_loss_is_the_advantage_times_the_log_probability_of_the_drawn_words(tmp_path):
    trainer = rl_trainer(tmp_path, LOSSES__NAMES=["SelfCriticalLoss"])
    trainer.model.eval()
    batch = all_images(trainer)
    torch.manual_seed(1)
    forced, metrics = trainer._sample_and_score(batch)
    torch.manual_seed(1)
    drawn = sample_captions(trainer.model, batch, 12, greedy_first=True).sents.view(4, 13, -1)
    rewards = np.array(
        [
            [
                trainer.scorer({kfg.IDS: [image_id], kfg.G_SENTS_IDS: caption.unsqueeze(0)})[kfg.REWARDS][0]
                for caption in captions
            ]
            for image_id, captions in zip((11, 12, 13, 14), drawn)
        ]
    )
    np.testing.assert_allclose(forced[kfg.REWARDS].view(4, 12), rewards[:, 1:] - rewards[:, :1], atol=1e-6)
    assert metrics["reward"] == pytest.approx(rewards[:, 1:].mean()) == pytest.approx(metrics["CiderD"])
    assert metrics["baseline"] == pytest.approx(rewards[:, 0].mean())
    assert metrics["length"] == pytest.approx(sum(forced[keys.CAPTION_LENGTHS]) / 48)
    assert forced[keys.SUPPRESSED_WORD] == 6


def test_with_the_mean_as_baseline_nothing_is_decoded_greedily_and_advantages_sum_to_zero(tmp_path, monkeypatch):
    trainer = rl_trainer(tmp_path, SCORER__BASELINE="mean")
    rows, original = set(), trainer.model.step
    monkeypatch.setattr(trainer.model, "step", lambda i, word, t: (rows.add(len(word)), original(i, word, t))[1])
    forced, metrics = trainer._sample_and_score(all_images(trainer))
    assert rows == {48}
    torch.testing.assert_close(forced[kfg.REWARDS].view(4, 12).sum(1), torch.zeros(4), atol=1e-5, rtol=0)
    assert metrics["baseline"] == metrics["reward"]


def test_rewards_and_losses_stand_in_the_storage_under_their_names(tmp_path):
    storage = run_steps(rl_trainer(tmp_path, SCORER__GROUNDING_WEIGHT=0.5))
    latest = {name: value[0] for name, value in storage.latest().items()}
    assert {"rl/reward", "rl/baseline", "rl/length", "rl/CiderD", "rl/Grounding"} <= latest.keys()
    assert latest["rl/reward"] == pytest.approx(latest["rl/CiderD"] + 0.5 * latest["rl/Grounding"])
    total = latest["Self-critical Loss"] + latest["Grounding Loss"]
    assert latest["total_loss"] == pytest.approx(total, abs=1e-6)


def test_the_grounding_loss_reaches_the_attention_as_in_the_first_stage(tmp_path):
    # One caption an image: against itself as greedy baseline the drawn one differs or not; mu L_gnd is there always.
    trainer = rl_trainer(tmp_path, SOLVER__BASE_LR=0.0)
    run_steps(trainer)
    attention = trainer.model.decoder.ss_attention
    # W_b sees the language loss too; the grounding loss alone is of the order of 1 here.
    assert attention.w_b.weight.grad.abs().max() > 1e-2
    for targets in ("image", "sentence"):
        storage = run_steps(rl_trainer(tmp_path, LOSSES__GROUNDING__TARGETS=targets))
        assert storage.latest()["Grounding Loss"][0] > 0


def test_scheduled_sampling_does_not_apply(tmp_path):
    losses = []
    for ss_prob in (0.0, 1.0):
        trainer = rl_trainer(tmp_path)
        trainer.ss_prob = ss_prob
        losses.append(run_steps(trainer).latest()["Self-critical Loss"][0])
    assert losses[0] == losses[1] != 0


def test_empty_captions_have_reward_0_and_train_without_nan(tmp_path):
    trainer = rl_trainer(tmp_path)
    with torch.no_grad():
        trainer.model.predictor.logits.bias[0] += 50.0  # the model says nothing at all
    storage = run_steps(trainer, 2)
    latest = {name: value[0] for name, value in storage.latest().items()}
    assert latest["rl/reward"] == latest["rl/baseline"] == 0.0 and latest["rl/length"] == 1.0
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_bfloat16_products_train(tmp_path):
    trainer = rl_trainer(tmp_path, SOLVER__AMP=True)
    before = expected_reward(trainer)
    trainer.train()
    assert expected_reward(trainer) > before + 0.3


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_change(tmp_path):
    trainer = rl_trainer(tmp_path)
    trainer.scorer = lambda batch: {kfg.REWARDS: np.full(len(batch[kfg.IDS]), np.nan)}
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(FloatingPointError, match="Self-critical Loss"):
        run_steps(trainer)
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_without_weights_the_stage_is_refused_and_a_resumed_one_continues(tmp_path):
    cfg = rl_config(tmp_path, MODEL__WEIGHTS="", SOLVER__EPOCH=1, SOLVER__CHECKPOINT_PERIOD=1)
    trainer = host.build_engine(cfg)
    for resume in (False, True):
        with pytest.raises(UserError, match=r"MODEL\.WEIGHTS is empty.*model_final\.pth"):
            trainer.resume_or_load(resume=resume)
    first = rl_trainer(tmp_path, SOLVER__EPOCH=1, SOLVER__CHECKPOINT_PERIOD=1)
    first.train()
    cfg.defrost()
    cfg.SOLVER.EPOCH = 2
    second = host.build_engine(cfg)
    second.resume_or_load(resume=True)
    assert second.start_iter == 1
    second.train()
    assert second.iter >= 1


@pytest.mark.skipif(NAME == UPSTREAM, reason="upstream resumes after whole epochs")
def test_a_stage_stopped_within_an_epoch_continues_bit_for_bit(tmp_path):
    class Stop(HookBase):
        def before_step(self):
            if self.trainer.iter == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    def train(folder, resume=False, hooks=()):
        folder.mkdir(exist_ok=True)
        seed_all_rng(999 if resume else 5)  # weights, order and dropout; another process has other random states
        trainer = rl_trainer(folder, SOLVER__EPOCH=3, OUTPUT_DIR=str(folder / "out"), DATALOADER__TRAIN_BATCH_SIZE=1)
        trainer.resume_or_load(resume=resume)
        trainer.register_hooks(list(hooks))
        with polite_stops():
            trainer.train()
        return [weight.tolist() for weight in trainer.model.parameters()], trainer.iters_per_epoch

    wanted, steps = train(tmp_path / "through")
    assert steps > 1 and 3 % steps  # it stops after three steps
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", hooks=[Stop()])
    assert train(tmp_path / "stopped", resume=True)[0] == wanted


def test_every_setting_that_cannot_work_is_named_before_any_data_is_read(tmp_path):
    write_world(tmp_path)
    cfg = rl_config(
        tmp_path,
        weights=False,
        DATALOADER__REGIONS="nowhere.h5",
        SCORER__NAME="Nobody",
        SCORER__BASELINE="beam",
        SCORER__CIDER_CACHED="coco_train_cider.pkl",
        LOSSES__NAMES=["CrossEntropy", "CyclicalLoss", "GroundingLoss", "WordAttentionLoss"],
    )
    with pytest.raises(UserError) as caught:
        SelfCriticalTrainer(cfg)
    message = str(caught.value)
    for part in (
        "SCORER.BASELINE: expected one of ('greedy', 'mean'), got 'beam' (not a beam)",
        "SCORER.NAME: expected a registered scorer such as GroundedScorer, got 'Nobody'",
        "LOSSES.NAMES: expected 'SelfCriticalLoss' among them",
        "CrossEntropy, CyclicalLoss would teach the model to repeat",
        "WordAttentionLoss pairs regions with the words of reference captions",
        "coco_train_cider.pkl is not read",
    ):
        assert part in message
    assert "nowhere.h5" not in message


def test_a_loss_is_refused_by_what_it_learns_and_a_derived_one_as_its_base(tmp_path):
    pairs = dict.fromkeys(("WordAttentionLoss", "PointerLoss", "GVDClassLoss"), "pairs")
    words = ("CrossEntropy", "FusedCrossEntropy", "CyclicalLoss", "ProphetLoss", "ConsistencyLoss", "RewardCriterion")
    learned = pairs | dict.fromkeys(words, "words") | dict.fromkeys(("GroundingLoss", LOSS, "unknown"), "")
    for name, what in learned.items():
        assert learns_from_captions(name) == what
        if name in LOSSES_REGISTRY:
            LOSSES_REGISTRY._do_register("Derived", type("Derived", (LOSSES_REGISTRY.get(name),), {}))
            try:
                assert learns_from_captions("Derived") == what
            finally:
                del LOSSES_REGISTRY._obj_map["Derived"]


def test_the_mean_of_the_others_needs_two_captions_an_image(tmp_path):
    cfg = rl_config(tmp_path, weights=False, SCORER__BASELINE="mean", DATALOADER__SEQ_PER_SAMPLE=1)
    with pytest.raises(UserError, match="SEQ_PER_SAMPLE must be at least 2; got 1"):
        SelfCriticalTrainer(cfg)


def test_an_image_without_references_stops_the_run_with_its_id(tmp_path):
    write_world(tmp_path)
    other = write_world(tmp_path / "other", {11: ["a man"], 12: ["a dog"], 13: ["a man"]})
    trainer = rl_trainer(tmp_path, SCORER__GT_PATH=str(other / "train.json"))
    with pytest.raises(UserError, match="No reference captions of image 14"):
        run_steps(trainer)


def test_metrics_of_a_run_hold_the_rewards(tmp_path):
    trainer = rl_trainer(tmp_path, SOLVER__EPOCH=2, SOLVER__WRITE_PERIOD=1)
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    assert any({"rl/reward", "rl/baseline", "Self-critical Loss"} <= line.keys() for line in lines)
