"""Converters: every feature pack in circulation, one file each, into the one region file.

``FORMATS`` maps the name on the command line to the class that reads the format.
"""

from xmodaler_ssattn.data.convert.caffe_tsv import CaffeTsv
from xmodaler_ssattn.data.convert.gic import GroundedImageCaptioning
from xmodaler_ssattn.data.convert.gvd import GroundedVideoDescription
from xmodaler_ssattn.data.convert.lxmert_tsv import LxmertTsv
from xmodaler_ssattn.data.convert.milvlg_npz import MilvlgNpz
from xmodaler_ssattn.data.convert.region_pack import RegionPack
from xmodaler_ssattn.data.convert.vlp import VisionLanguagePretraining
from xmodaler_ssattn.data.convert.xmodaler_npz import XmodalerNpz

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
