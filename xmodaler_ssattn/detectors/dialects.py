"""Recognise the published detector of a weights file, and check that it is complete, by names and shapes.

All files name their tensors as detectron2 does. They differ in the names of the attribute head and in the shapes
(A anchors per position, C classes without background):

                       milvlg-caffe         airsplay (and its copy      milvlg-d2
                                            unc-nlp/frcnn-vg-finetuned)
    objectness_logits  2A = 24 rows         A = 12 rows                 A = 15 rows
    cls_score          C + 1, background 0  C + 1, background C         C + 1, background C
    bbox_pred          4 (C + 1), not used  4 C                         4 C
    attributes         401, none is 0       401, none is 400            400
    attribute names    box_predictor.       box_predictor.              attribute_predictor.
                       {cls_embed,          {cls_embedding,             {obj_embed,
                       attr_linear1,        fc_attr,                    fc.0,
                       attr_linear2}        attr_score}                 attr_score}

Depth, widths and numbers of classes follow from the shapes. Other tensors are allowed only if ``EXTRAS`` matches.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

from xmodaler_ssattn.detectors.backbone import fold_norm
from xmodaler_ssattn.detectors.network import BottomUpNetwork
from xmodaler_ssattn.detectors.spec import BLOCKS, DetectorSpec
from xmodaler_ssattn.errors import UserError, raise_all

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
Weights = Mapping[str, torch.Tensor]

PUBLISHED_CLASSES, PUBLISHED_WIDTH = 1600, 64
NORM = ("weight", "bias", "running_mean", "running_var")
# Our name -> theirs, by the beginning of the name.
LAYERS = {
    "backbone.": "backbone.",
    "res5.": "roi_heads.res5.",
    "rpn.conv.": "proposal_generator.rpn_head.conv.",
    "rpn.logits.": "proposal_generator.rpn_head.objectness_logits.",
    "rpn.deltas.": "proposal_generator.rpn_head.anchor_deltas.",
    "head.cls_score.": "roi_heads.box_predictor.cls_score.",
    "head.bbox_pred.": "roi_heads.box_predictor.bbox_pred.",
}
BOX_PRED, CLS_SCORE = LAYERS["head.bbox_pred."], LAYERS["head.cls_score."]
LOGITS, DELTAS, CONV = (LAYERS[f"rpn.{name}."] for name in ("logits", "deltas", "conv"))
CELL_ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
# Other allowed content of a file: counters of training, anchors, and the mean and deviation of pixels.
EXTRAS = re.compile(rf"(.*\.num_batches_tracked|{re.escape(CELL_ANCHORS)}|pixel_mean|pixel_std)$")
# The tensors by which the detector is recognised.
CORE = (
    "backbone.stem.conv1.weight",
    *(f"backbone.res{stage}.0.conv1.weight" for stage in (2, 3, 4)),
    "roi_heads.res5.0.conv1.weight",
    "backbone.res2.0.conv2.weight",
    f"{CONV}weight",
    f"{LOGITS}weight",
    f"{DELTAS}weight",
    f"{CLS_SCORE}weight",
)
# Related detectors that are not supported: a name that only they have, and a description.
RELATIVES = (
    (
        r"backbone\.stem\.norm\.|roi_heads\.res5_bn\.",
        "the ResNet-152 of MILVLG's Caffe mode, whose norms come before its convolutions",
    ),
    (r"(.*\.)?fpn", "a detector with a feature pyramid, such as the X-101 and X-152 of vilbert, mmf and VLP"),
)


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The names of tensors in a weights file, and the network."""

    name: str  # "milvlg-caffe", "airsplay" or "milvlg-d2", as in ``spec.name``
    spec: DetectorSpec
    attribute_layers: tuple[str, ...]  # the file's names of the attribute head's embedding, hidden layer, scores

    def theirs(self, name: str) -> str:
        """The file's name for one of the network's parameters."""
        kind, _, rest = name.removeprefix("head.attribute_").partition(".")
        if name.startswith("head.attribute_"):
            return f"{self.attribute_layers[('embedding', 'hidden', 'score').index(kind)]}.{rest}"
        start = next(start for start in LAYERS if name.startswith(start))
        return LAYERS[start] + name.removeprefix(start)


KINDS: dict[str, tuple[Callable[..., DetectorSpec], tuple[str, ...]]] = {
    "milvlg-caffe": (
        DetectorSpec.caffe,
        tuple(f"roi_heads.box_predictor.{name}" for name in ("cls_embed", "attr_linear1", "attr_linear2")),
    ),
    "airsplay": (
        DetectorSpec.airsplay,
        tuple(f"roi_heads.box_predictor.{name}" for name in ("cls_embedding", "fc_attr", "attr_score")),
    ),
    "milvlg-d2": (
        DetectorSpec.milvlg_d2,
        tuple(f"roi_heads.attribute_predictor.{name}" for name in ("obj_embed", "fc.0", "attr_score")),
    ),
}


def dialect_of(shapes: Shapes, where: str = "these weights") -> Dialect:
    """The dialect of a file with tensors of these shapes.

    Args:
        shapes: of every tensor, by name.
        where: the file, for messages.

    Raises:
        UserError: it is another network, or tensors are missing, unknown or of another shape (all are listed).
    """
    heading = f"Detector weights: {where}"
    for pattern, what in RELATIVES:
        if any(re.match(pattern, name) for name in shapes):
            raise UserError(
                f"{heading}: this is {what}. It is not supported; give one of the Bottom-Up detectors that "
                "the README lists."
            )
    core = [
        name for name in CORE if len(shapes.get(name, ())) != (2 if "cls_score" in name else 4) or 0 in shapes[name]
    ]
    if core:
        raise UserError(
            f"{heading}: this is not a Bottom-Up detector. It lacks {', '.join(core)}; it has {_some(list(shapes), 6)}."
        )
    kinds = {make().rpn_rows: kind for kind, (make, _) in KINDS.items()}
    rows = shapes[f"{LOGITS}weight"][0], shapes[f"{DELTAS}weight"][0]
    if rows not in kinds:
        known = ", ".join(f"{a} and {b} ({kind})" for (a, b), kind in kinds.items())
        raise UserError(f"{heading}: {LOGITS}weight has {rows[0]} rows and {DELTAS}weight {rows[1]}; expected {known}.")
    kind = kinds[rows]
    make, attribute_layers = KINDS[kind]
    spec = make(**_sizes(shapes, attribute_layers, make().no_attribute))
    dialect = Dialect(kind, spec, attribute_layers)
    raise_all(_differences(shapes, dialect), f"{heading} are read as {kind} and cannot be used")
    if spec.num_classes != PUBLISHED_CLASSES:
        logger.warning("%s: %d classes; the published detectors have %d.", where, spec.num_classes, PUBLISHED_CLASSES)
    return dialect


def _sizes(shapes: Shapes, attribute_layers: tuple[str, ...], no_attribute: str) -> dict:
    """The fields of a spec that follow from the shapes."""
    width = shapes["backbone.stem.conv1.weight"][0]
    blocks = tuple(
        len({name.split(".")[2] for name in shapes if name.startswith(stage)})
        for stage in ("backbone.res2.", "backbone.res3.", "backbone.res4.", "roi_heads.res5.")
    )
    if width == PUBLISHED_WIDTH and blocks not in BLOCKS.values():  # a block is missing: compare with the nearest
        blocks = min(BLOCKS.values(), key=lambda layers: sum(abs(a - b) for a, b in zip(layers, blocks)))
    sizes: dict = {
        "base_width": width,
        "blocks": blocks,
        "num_classes": shapes[f"{CLS_SCORE}weight"][0] - 1,
        "rpn_channels": shapes[f"{CONV}weight"][0],
    }
    grouped, group_width = shapes["backbone.res2.0.conv2.weight"][:2]
    if grouped != group_width and grouped % group_width == 0:  # MILVLG's ResNeXt-152 sets these three together
        sizes |= {"groups": grouped // group_width, "group_width": group_width, "stride_in_1x1": False, "pool_size": 7}
    embedding, hidden, score = (shapes.get(f"{layer}.weight") for layer in attribute_layers)
    if not any(name.startswith(tuple(f"{layer}." for layer in attribute_layers)) for name in shapes):
        return sizes | {"num_attributes": None}
    if embedding and hidden and score and all(len(shape) == 2 for shape in (embedding, hidden, score)):
        sizes |= {
            "attribute_embedding": embedding[1],
            "attribute_hidden": hidden[0],
            "num_attributes": score[0] - (no_attribute != "absent"),
        }
    return sizes


def _parameters(dialect: Dialect) -> Iterator[tuple[str, str, torch.Size, bool]]:
    """Each parameter of the network: our name, the file's, its shape, and whether a norm follows it in the file.

    Biases of convolutions with a norm are left out: the file has none, and ours are computed from the norm.
    """
    with torch.device("meta"):
        state = BottomUpNetwork(dialect.spec).state_dict()
    for name, tensor in state.items():
        normed = name.startswith(("backbone.", "res5."))
        if not (normed and name.endswith(".bias")):
            yield name, dialect.theirs(name), tensor.shape, normed


def _norm_names(weight: str) -> list[str]:
    return [f"{weight.removesuffix('weight')}norm.{part}" for part in NORM]


def expected_shapes(dialect: Dialect) -> dict[str, tuple[int, ...]]:
    """Every tensor that a file of this dialect must have, in the network's order."""
    expected: dict[str, tuple[int, ...]] = {}
    for _, theirs, shape, normed in _parameters(dialect):
        expected[theirs] = tuple(shape)
        if normed:
            expected |= dict.fromkeys(_norm_names(theirs), (shape[0],))
    return expected


def _differences(shapes: Shapes, dialect: Dialect) -> list[str]:
    """One sentence per kind of difference between a file and its dialect."""
    spec, expected = dialect.spec, expected_shapes(dialect)
    optional = {}
    if spec.boxes == "proposals":  # the box regression, which is not used
        rows = 4 * (spec.num_classes + 1)
        optional = {f"{BOX_PRED}weight": (rows, spec.feature_dim), f"{BOX_PRED}bias": (rows,)}
    known = {**expected, **optional}
    missing = [name for name in expected if name not in shapes]
    unknown = [name for name in shapes if name not in known and not EXTRAS.match(name)]
    wrong = [
        f"{name} is {_shape(shapes[name])}, expected {_shape(shape)}"
        for name, shape in known.items()
        if name in shapes and tuple(shapes[name]) != shape
    ]
    return [
        f"{what}: {_some(names)}"
        for what, names in (
            ("tensors are missing", missing),
            ("tensors are not known", unknown),
            ("shapes are wrong", wrong),
        )
        if names
    ]


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _some(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{len(names):,}: " + ", ".join(names[:most]) + more


def check_finite(weights: Weights, where: str = "these weights") -> None:
    """Raise a ``UserError`` that lists the tensors with numbers that are not finite."""
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    raise_all([f"numbers that are not finite, in {_some(broken)}"] if broken else [], f"Detector weights: {where}")


def to_network_state(weights: Weights, dialect: Dialect, part: str = "") -> dict[str, torch.Tensor]:
    """The state dict of ``BottomUpNetwork(dialect.spec)``, float32, norms folded in.

    Args:
        weights: accepted by ``dialect_of``.
        part: only names that begin with this.
    """
    state: dict[str, torch.Tensor] = {}
    for name, theirs, _, normed in _parameters(dialect):
        if name.startswith(part):
            state[name] = weights[theirs].float()
            if normed:
                norm = [weights[norm_name] for norm_name in _norm_names(theirs)]
                state[name], bias = fold_norm(state[name], *norm)
                state[f"{name.removesuffix('weight')}bias"] = bias
    return state
