"""Converters: every feature pack in circulation, one file each, into the one region file.

``FORMATS`` maps the name on the command line to the class that reads the format.
"""

from xmodaler_ssattn.packs.formats.caffe_tsv import CaffeTsv
from xmodaler_ssattn.packs.formats.gic import GroundedImageCaptioning
from xmodaler_ssattn.packs.formats.gvd import GroundedVideoDescription
from xmodaler_ssattn.packs.formats.lxmert_tsv import LxmertTsv
from xmodaler_ssattn.packs.formats.milvlg_npz import MilvlgNpz
from xmodaler_ssattn.packs.formats.region_pack import RegionPack
from xmodaler_ssattn.packs.formats.vlp import VisionLanguagePretraining
from xmodaler_ssattn.packs.formats.xmodaler_npz import XmodalerNpz

FORMATS = {
    reader.name: reader
    for reader in (
        CaffeTsv,
        XmodalerNpz,
        MilvlgNpz,
        GroundedVideoDescription,
        VisionLanguagePretraining,
        GroundedImageCaptioning,
        LxmertTsv,
        RegionPack,
    )
}
