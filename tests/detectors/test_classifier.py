"""The classifier cut out of a detector gives the detector's own class probabilities."""

import numpy as np
import pytest
import torch

from detectors.toy_networks import conditioned_random_network, from_network_state, tiny
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.detectors.loading import export_classifier
from xmodaler_ssattn.detectors.torch_backend import TorchDetector
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.classifier import Classifier


@pytest.mark.parametrize("kind", ["caffe", "airsplay", "milvlg_d2"])
def test_features_and_classifier_give_the_class_probabilities_background_first(tmp_path, kind):
    network = conditioned_random_network(tiny(kind))
    torch.save({"model": from_network_state(network.state_dict(), network.spec)}, tmp_path / "w.pth")
    made = export_classifier(tmp_path / "w.pth", tmp_path / "c.npz")
    assert made.num_classes == 13 and made.feature_dim == network.spec.feature_dim
    classifier = Classifier(tmp_path / "c.npz")
    assert classifier.background == "first"
    picture = np.random.default_rng(0).integers(0, 255, (70, 100, 3), dtype=np.uint8)
    found = TorchDetector(network).detect(picture)
    assert len(found) > 3
    np.testing.assert_allclose(classifier(found.features), found.class_probs, atol=1e-5)


def test_the_command_says_what_it_wrote_and_where(tmp_path, capsys):
    network = conditioned_random_network(tiny())
    torch.save(from_network_state(network.state_dict(), network.spec), tmp_path / "w.pth")
    assert main(["prepare", "classifier", "--weights", str(tmp_path / "w.pth"), "--out", str(tmp_path / "c.npz")]) == 0
    out = capsys.readouterr().out
    assert "milvlg-caffe" in out and "13 classes, background first" in out and str(tmp_path / "c.npz") in out


def test_other_files_are_refused(tmp_path):
    torch.save({"model": {"fc.weight": torch.zeros(3, 4)}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: this is not a Bottom-Up detector"):
        export_classifier(tmp_path / "w.pth", tmp_path / "c.npz")
    with pytest.raises(UserError, match=r"c\.bin will be an npz file"):
        export_classifier(tmp_path / "w.pth", tmp_path / "c.bin")
    assert not (tmp_path / "c.npz").exists()
