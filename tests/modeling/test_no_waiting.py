"""A training step asks the device for nothing: no value comes back, no index or mask whose size the host must know.

The model lies on the meta device, whose tensors have no values: reading one raises by itself. What would merely
wait on a GPU, and so slow the step down, is caught by name. Out of reach: an index given as a Python list, which torch
copies to the device below the dispatcher, and what a GPU's own kernels wait for.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toys import TWO_IMAGES, toy_config, toy_model
from xmodaler_ssattn import keys
from xmodaler_ssattn.fast.resident import ResidentRegions
from xmodaler_ssattn.host import build_losses, build_optimizer, kfg
from xmodaler_ssattn.modeling.sampling import replace_some, sample_words

# Each of these makes a GPU's host wait: a value or a size goes back.
WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "multinomial",
    "is_nonzero",
    "equal",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
    "bincount",
    "repeat_interleave.Tensor",
}


class NoWaiting(TorchDispatchMode):
    """Refuses what would make the host wait for ``device``."""

    def __init__(self, device: str):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.__name__.removesuffix(".default")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if any(tensor.device.type == self.device for tensor in tensors):
            base = name.split(".")[0]
            assert name not in WAITING and base not in WAITING, f"{name} waits for the device"
            if base in ("index", "index_put", "index_put_", "_index_put_impl_"):
                indices = [i for i in args[1] if i is not None]
                assert all(i.dtype != torch.bool for i in indices), "a boolean index waits for its number of True"
                assert all(i.device.type == self.device for i in indices), "the host waits for this index to be copied"
            if base == "_to_copy" and kwargs.get("device") is not None:
                assert torch.device(kwargs["device"]).type == self.device, "a tensor goes back to the host"
            if base == "copy_":
                assert args[0].device.type == self.device, "a tensor goes back to the host"
        elif base_device(kwargs) == self.device and "_to_copy" in name:
            assert kwargs.get("non_blocking"), "the host waits for this copy to the device"
        return function(*args, **kwargs)


def base_device(kwargs) -> str | None:
    return torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None


def step(cfg, model, ss_prob: float) -> None:
    # From the samples on, as the stock trainer does; it reads the losses afterwards, one value each.
    batch = model.preprocess_batch(TWO_IMAGES)
    batch[kfg.SS_PROB] = ss_prob
    out = model._forward(batch)
    losses = {}
    for loss in build_losses(cfg):
        losses.update(loss(out))
    sum(losses.values()).backward()


@pytest.mark.parametrize("ss_prob", [0.0, 0.25])
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"LOSSES__GROUNDING__REDUCTION": "image_mean"},
        {"MODEL__SS_ATTENTION__FUSION": "log"},
        {"MODEL__SS_ATTENTION__ENABLED": False, "LOSSES__NAMES": ["CrossEntropy"]},
        # the loop word by word
        {"MODEL__UPDOWN__DROPOUT1": 0.5},
    ],
)
def test_a_step_waits_for_nothing(tmp_path, overrides, ss_prob):
    dropout = {f"MODEL__{part}__DROPOUT": 0.5 for part in ("TOKEN_EMBED", "VISUAL_EMBED")}
    overrides = {"MODEL__PRED_DROPOUT": 0.5, **dropout, **overrides}
    model = toy_model(tmp_path, **overrides).train().to("meta")
    # The share of dead units is read once in 200 steps, and both ways of forcing are compared once: these do wait.
    model.dead_units.steps, model.fast_forcing.agrees = 1, True
    with NoWaiting("meta"):
        step(toy_config(tmp_path, **overrides), model, ss_prob)
    assert all(p.grad is not None for name, p in model.named_parameters() if "kappa" not in name)


def test_a_batch_from_a_resident_table_waits_for_nothing(tmp_path):
    model = toy_model(tmp_path).train().to("meta")
    model.dead_units.steps, model.fast_forcing.agrees = 1, True
    shapes = {kfg.ATT_FEATS: 6, keys.BOXES_PX: 4, keys.SPATIAL: 5, keys.CLASS_PROBS: 4}
    table = ResidentRegions(
        {key: torch.zeros(3, 5, size, device="meta") for key, size in shapes.items()},
        {keys.IMAGE_SIZE: torch.zeros(3, 2, device="meta")},
        [5, 2, 1],
    )
    samples = []
    for row, sample in enumerate(TWO_IMAGES):
        kept = {key: value for key, value in sample.items() if key not in (*shapes, keys.IMAGE_SIZE)}
        samples.append({**kept, keys.RESIDENT: table.name, keys.RESIDENT_ROW: row})
    with NoWaiting("meta"):
        batch = model.preprocess_batch(samples)
        assert batch[kfg.ATT_FEATS].shape == (2, 5, 6)
        model._forward(batch)


@pytest.mark.parametrize("clip", ["value", "norm"])
def test_the_optimiser_with_clipping_waits_for_nothing(tmp_path, clip):
    """The fused kernel knows no meta device: here on the CPU, where everything counts as the device."""
    cfg = toy_config(tmp_path, SOLVER__NAME="FusedAdam", SOLVER__GRAD_CLIP=0.1, SOLVER__GRAD_CLIP_TYPE=clip)
    model = toy_model(tmp_path)
    optimizer = build_optimizer(cfg, model)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        with NoWaiting("cpu"):
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.softmax(-1).multinomial(1),
        lambda x: x.cpu(),
        lambda x: bool(x.sum() > 0),
        lambda x: torch.ones(3).to(x.device),
    ],
)
def test_the_watch_itself_can_fail(waits):
    x = torch.zeros(4, 3, device="meta")
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), NoWaiting("meta"):
        waits(x)


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
