"""The npz files that we export are read by X-modaler's own dataset class."""

import importlib

import numpy as np
import pytest

from packs.pack_writers import COUNTS, SIZES, WRITERS, content
from xmodaler_ssattn.host import NAME, UPSTREAM, kfg
from xmodaler_ssattn.packs.convert import convert_regions
from xmodaler_ssattn.packs.formats.xmodaler_npz import export_npz
from xmodaler_ssattn.packs.select import Rules
from xmodaler_ssattn.packs.store import RegionStore


@pytest.mark.skipif(NAME != UPSTREAM, reason="needs a clone: SSATTN_TEST_HOST=upstream XMODALER_HOME=...")
def test_mscoco_dataset_of_upstream_reads_the_exported_npz(tmp_path):
    mscoco = importlib.import_module("xmodaler.datasets.images.mscoco")
    convert_regions(WRITERS["xmodaler_npz"](tmp_path / "pack"), tmp_path / "r.h5", Rules())
    export_npz(RegionStore(tmp_path / "r.h5"), tmp_path / "npz")
    dataset = mscoco.MSCoCoDataset(
        stage="val",
        anno_file="",
        seq_per_img=5,
        max_feat_num=50,
        max_seq_len=20,
        feats_folder=str(tmp_path / "npz"),
        relation_file="",
        gv_feat_file="",
        attribute_file="",
    )
    for image_id, (width, height) in SIZES.items():
        sample = dataset({"image_id": str(image_id)})
        expected = content(image_id)
        # upstream prepends the mean region to features and places, not to the class probabilities
        assert sample[kfg.ATT_FEATS].shape[0] == COUNTS[image_id] + 1
        np.testing.assert_array_equal(sample[kfg.ATT_FEATS][1:].numpy(), expected["features"])
        np.testing.assert_array_equal(sample[kfg.V_TARGET].numpy(), expected["probs"])
        places = expected["boxes"] / np.array([width, height, width, height], np.float32)
        np.testing.assert_allclose(sample[kfg.ATT_FEATS_LOC][1:, :4].numpy(), places, rtol=1e-6)
