"""What a training step and a decoding ask of a CUDA device, found without a GPU by ``fake_cuda.py``.

One process runs all cases of ``no_waiting.py``; the tests here read its report. Out of reach: what the kernels of a GPU
wait for themselves, the hosts' LabelSmoothing, which selects by masks and so waits, and
``torch.cuda.make_graphed_callables``, of which only the contents are tested.
"""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from fake_cuda import LIBRARY, build_library
from toys import toy_model, toy_sample
from xmodaler_ssattn import host, keys
from xmodaler_ssattn.engine import finite
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling import searchers
from xmodaler_ssattn.modeling.loop import Ends
from xmodaler_ssattn.modeling.sampling import replace_some, sample_words

# (cases, line of code, number of waits, reason). Each wait of any case must be here.
ALLOWED = [
    ("trainer", "runtime/trainer.py _write_metrics", "the stock trainer reads the losses"),
    ("self-critical", "runtime/trainer.py _write_metrics", "the stock trainer reads the losses"),
    ("trainer", "xmodaler/engine/defaults.py _write_metrics", "upstream's trainer reads the losses, before its update"),
    ("self-critical", "engine/rl_trainer.py run_step", "the same method of upstream, called after the update"),
    ("trainer", "engine/finite.py after_step", "whether a gradient was infinite, after the update"),
    ("self-critical", "engine/finite.py after_step", "whether a gradient was infinite, after the update"),
    ("trainer, stock Adam", "engine/finite.py bad_tensors", "only a fused update can be told to change nothing"),
    ("self-critical", "engine/rl_trainer.py _sample_and_score", "the host scores the sampled words"),
    ("self-critical", "scorer/caption_reward.py _grounding", "the host compares boxes with references"),
    ("self-critical", "modeling/loop.py read", "whether all captions have ended, once in some words"),
    ("sample", "modeling/loop.py read", "the same"),
    ("greedy", "modeling/loop.py read", "the same"),
    ("beam", "modeling/loop.py read", "the same"),
    ("greedy", "modeling/grounded_output.py captions_from_decoding", "the captions, once per batch"),
    ("beam", "modeling/grounded_output.py captions_from_decoding", "the captions, once per batch"),
    ("greedy", "modeling/grounded_output.py _array", "their weights, once per batch"),
    ("beam", "modeling/grounded_output.py _array", "their weights, once per batch"),
    ("first step", "fast/teacher_forcing.py ways_agree", "both ways are compared at the first step"),
    ("first step", "modeling/dead_units.py dead_shares", "dead units are counted once in 200 steps"),
]
# Waits that come before the update of the optimiser although the step could be queued first.
BEFORE_UPDATE = {
    "modeling/loop.py read",
    "engine/rl_trainer.py _sample_and_score",
    "scorer/caption_reward.py _grounding",
    "engine/finite.py bad_tensors",
    "xmodaler/engine/defaults.py _write_metrics",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    if torch.version.cuda is not None:
        pytest.skip("torch is built with CUDA, and has guards and hooks of its own: see tools/gpu_check.py")
    folder = tmp_path_factory.mktemp("fake_cuda")
    try:
        library = build_library(folder)
    except RuntimeError as error:
        pytest.skip(str(error))
    tests = Path(__file__).parents[1]
    environment = os.environ | {LIBRARY: str(library), "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    command = [sys.executable, str(Path(__file__).with_name("no_waiting.py")), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "report.json").read_text())


def place(note: dict) -> str:
    """The file and the function of a note: its line number changes with each edit."""
    file, _, rest = note["where"].partition(":")
    function = rest.partition(" ")[2]
    # before Python 3.12 the comprehension in a function is a function
    outer = {"runtime/trainer.py": "_write_metrics", "engine/rl_trainer.py": "_sample_and_score"}
    outer |= {"fast/teacher_forcing.py": "ways_agree", "modeling/dead_units.py": "dead_shares"}
    return f"{file} {outer.get(file, function) if function.startswith('<') else function}".strip()


def test_every_case_runs(report):
    assert len(report) > 25
    failed = {name: case["error"] for name, case in report.items() if case["error"]}
    assert not failed, "\n".join(f"{name}: {error}" for name, error in failed.items())


def test_no_operator_gets_tensors_of_two_devices_or_of_two_types(report):
    faults = {f"{name}: {note['where']}: {note['what']}" for name, case in report.items() for note in case["faults"]}
    assert not faults


def test_only_the_allowed_places_wait_for_the_device(report):
    wrong = {
        f"{name}: {note['where']}: {note['what']}"
        for name, case in report.items()
        for note in case["waits"]
        if not any(name.startswith(cases) and place(note) == where for cases, where, _ in ALLOWED)
    }
    assert not wrong


def test_what_a_training_step_reads_is_read_after_the_update_is_queued(report):
    wrong = {
        f"{name}: {note['where']}: {note['what']}"
        for name, case in report.items()
        if name.startswith(("trainer", "self-critical"))
        for note in case["waits"]
        if not note["after_update"] and place(note) not in BEFORE_UPDATE
    }
    assert not wrong
    read = {place(note) for note in report["trainer"]["waits"]}
    assert "engine/finite.py after_step" in read and len(read) == 2
    assert all(note["after_update"] for note in report["self-critical, mean"]["waits"] if "run_step" in note["where"])


def test_decoding_looks_at_the_device_once_in_some_words(report):
    """12 words, a look in 4: 3 looks per decoding; `beam and references` decodes twice, greedily and with beams."""
    for name, looks in (("greedy", 3), ("beam, bfloat16", 3), ("beam and references", 6), ("sample", 3)):
        assert Counter(map(place, report[name]["waits"]))["modeling/loop.py read"] == looks, name


def test_under_autocast_all_products_are_in_bfloat16(report):
    """With layer norms in both embeddings, whose outputs are float32 under CUDA's autocast."""
    cases = [case for name, case in report.items() if "bfloat16" in name]
    assert len(cases) > 5
    for case in cases:
        found = {(note["where"], note["what"]) for note in case["products"]}
        assert found and {what for _, what in found} == {"torch.bfloat16"}, found
    assert {note["what"] for note in report["step: paper"]["products"]} == {"torch.float32"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.skipif(host.NAME == host.UPSTREAM, reason="the toy trainer is the embedded runtime's")
def test_a_fused_update_leaves_the_weights_when_the_bad_gradient_is_read_after_it(tmp_path, monkeypatch, value):
    """The way of a GPU, on a CPU: infinity becomes 0.1 by clipping, and the update must still change nothing."""
    from runtime.toy_host import toy_config, toy_trainer

    monkeypatch.setattr(finite, "answers_late", lambda tensor: True)
    solver = {"SOLVER.NAME": "FusedAdam", "SOLVER.GRAD_CLIP": 0.1, "SOLVER.GRAD_CLIP_TYPE": "value"}
    run = toy_trainer(toy_config(tmp_path, "SOLVER.EPOCH", 2, *(part for pair in solver.items() for part in pair)))
    run.register_hooks([finite.OnlyFinite()])
    weights, kept = list(run.model.parameters()), []

    def spoil(grad):
        if run.iter == 3:
            kept[:] = [weight.detach().clone() for weight in weights]
            return torch.full_like(grad, value)
        return grad

    run.model.decoder.lstm1.weight_hh.register_hook(spoil)
    with pytest.raises(FloatingPointError, match=r"gradient .* iteration 3: decoder.lstm1.weight_hh \(images"):
        run.train()
    assert all(torch.equal(weight, before) for weight, before in zip(weights, kept, strict=True))


def test_words_are_sampled_as_torch_samples_them():
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    wanted = torch.multinomial(logits.softmax(-1), 1).squeeze(1)
    torch.manual_seed(1)
    assert torch.equal(sample_words(logits), wanted)
    # and the share of each word is its probability: 4 sigma of 20,000 draws of p = 0.25 are 0.0123
    sampled = sample_words(torch.zeros(20000, 4))
    for word in range(4):
        assert abs((sampled == word).float().mean() - 0.25) < 0.0123


def test_sampling_for_all_rows_replaces_the_same_words_as_sampling_for_the_chosen_ones():
    given, hidden = torch.arange(100), torch.arange(100.0).unsqueeze(1)

    def sample(states):
        return states.squeeze(1).long() + 1000

    results = []
    for static in (False, True):
        torch.manual_seed(0)
        results.append(replace_some(given, hidden, 0.3, sample, static))
    assert torch.equal(*results)
    replaced = results[0] >= 1000
    assert 15 < replaced.sum() < 45
    assert torch.equal(results[0], torch.where(replaced, given + 1000, given))


@pytest.mark.parametrize("every", [2, 4, 100])
def test_looking_less_often_gives_the_same_captions_weights_and_scores(tmp_path, monkeypatch, every):
    """The way of a GPU, on a CPU: needless steps are removed, and images leave the search later.

    The weights of steps after a caption's end have no meaning.
    """
    samples = [toy_sample(number, 2 + number % 4) for number in range(1, 9)]
    log_probs = searchers.GroundedDecodeStrategy._log_probs
    found = []

    def ends_sooner_or_later(strategy, inputs, model):
        logp = log_probs(strategy, inputs, model)
        logp[:, 0] += 0.5 * (next(words) - 5)
        return logp

    monkeypatch.setattr(searchers.GroundedDecodeStrategy, "_log_probs", ends_sooner_or_later)
    start = Ends.__init__
    for looks in (1, every):

        def late(self, device, steps, looks=looks):
            start(self, device, steps)
            self._every = looks

        monkeypatch.setattr(Ends, "__init__", late)
        model = toy_model(tmp_path, MODEL__MAX_SEQ_LEN=15).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)
            for beam in (False, True):
                words = itertools.count()
                out = model(model.preprocess_batch(samples), use_beam_search=beam)
                of_regions = [part for part in out[keys.DECODED] if part is not None]
                found.append((out[kfg.G_SENTS_IDS], out[kfg.G_LOGP], *of_regions))
    for sents in (found[0][0], found[1][0]):
        lengths = (sents > 0).sum(1)
        assert 4 <= lengths.min() < lengths.max() < 12
    for one, other in zip(found[:2], found[2:], strict=True):
        assert one[0].equal(other[0]) and one[4].shape == other[4].shape
        said = (one[0] > 0)[:, : one[4].shape[1], None]
        one, other = ((*part[:4], *(weights * said for weights in part[4:])) for part in (one, other))
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
