"""``xmodaler app``: a local web page that captions pictures, with words, boxes and attention."""

from __future__ import annotations

import argparse
import contextlib
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmodaler_ssattn.cli.output import printable, visible
from xmodaler_ssattn.cli.pictures import IMAGES_HELP, packed_source, suffix_of, unpack
from xmodaler_ssattn.errors import UserError, require
from xmodaler_ssattn.stopping import SIGNALS

if TYPE_CHECKING:
    from xmodaler_ssattn.app.views import Answer

PORT = 7860
MOST_PICTURES = 1000  # in the list of the page

TEXT = """\
Opens a page in which a picture is captioned: with the box of each object word, and the attention of each word as
light on the picture. It runs on this machine only (127.0.0.1) and needs no network. Press Ctrl-C to end it.

  xmodaler app --weights run/model_final.pth --detector detector.pth
  xmodaler app --weights demo/ss_attn_words --images demo/data/Images        sample scenes; needs nothing else

On a server, open the page through `ssh -L 7860:127.0.0.1:7860 SERVER`.
"""


def add_parser(subparsers: Any) -> None:
    from xmodaler_ssattn.cli.detectors import add_captioner_arguments

    parser = subparsers.add_parser("app", description=TEXT, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--images", metavar="PATH", help=f"also offer these pictures, the first {MOST_PICTURES:,}: {IMAGES_HELP}")
    add("--port", type=int, default=PORT, metavar="N", help=f"port of the page (default: {PORT})")
    add_captioner_arguments(parser, several=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    end = threading.Event()
    before = {number: signal.signal(number, lambda *_: end.set()) for number in SIGNALS}
    try:
        with serve(args) as address:
            print(f"Open {address} in a browser of this machine. Ctrl-C ends the app.", flush=True)
            end.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print("The app has ended.")
    return 0


@contextlib.contextmanager
def serve(args: argparse.Namespace) -> Iterator[str]:
    """Serve the page while the block runs; yields its address."""
    from xmodaler_ssattn.app.page import build, launch, settings

    if not 1 <= args.port <= 65535:
        raise UserError(f"--port: expected a number from 1 to 65535, got {args.port}.")
    with tempfile.TemporaryDirectory(prefix="xmodaler_app_") as folder:  # uploaded pictures do not stay
        pictures = _pictures_of(args.images, Path(folder)) if args.images else {}
        settings(folder)
        require("gradio", "app", "`xmodaler app`")
        models = LoadedModels(args)
        shown = {name: getattr(models, name) for name in ("about", "beam_size", "has_beta", "ground_by")}
        page = build(models.answer, title="Grounded captions", pictures=pictures, **shown)
        address = launch(page, args.port)
        try:
            yield address
        finally:
            page.close(verbose=False)


def _pictures_of(images: str, temporary: Path) -> dict[str, Path]:
    """Name -> file of the pictures, in the order of their names; those of an archive or table are copied."""
    from xmodaler_ssattn.detectors.folder import list_pictures

    packed = packed_source(images)
    source = packed or list_pictures(images)
    if len(source.names) > MOST_PICTURES:
        print(f"{images}: the first {MOST_PICTURES:,} of {len(source.names):,} pictures are offered.")
    names = source.names[:MOST_PICTURES]
    if packed is None:
        return {printable(name): Path(images) / name for name in names}
    targets = {name: f"{place}{suffix_of(name)}" for place, name in enumerate(names)}
    unpack(packed, targets, temporary)
    return {printable(name): temporary / target for name, target in targets.items() if (temporary / target).exists()}


class LoadedModels:
    """The models of the app, loaded once, and what the page says of them."""

    def __init__(self, args: argparse.Namespace) -> None:
        from xmodaler_ssattn.cli.caption import detector_for, name_of_run
        from xmodaler_ssattn.cli.captioning import load_captioner
        from xmodaler_ssattn.evaluation.object_words import ObjectWords
        from xmodaler_ssattn.partners import decoder_attends

        opts = ["INFERENCE.SAVE_ATTENTION", "True", *args.opts]
        self._captioner = load_captioner(
            args.weights, config_file=args.config_file, vocabulary=args.vocabulary, device=args.device, opts=opts
        )
        cfg = self._captioner.cfg
        if not decoder_attends(cfg):
            raise UserError(
                f"{args.weights}: MODEL.DECODER {cfg.MODEL.DECODER} has no attention, so there are no boxes to show. "
                "`xmodaler caption` prints its captions."
            )
        self._drawn = bool(cfg.DATALOADER.SAMPLE_SCENES)
        self._detector = detector_for(self._captioner, args)
        self._spoken = ObjectWords.of_model(cfg.INFERENCE.VOCAB)
        self.about = f"Captioner: {name_of_run(Path(args.weights))}. Detector: {self._detector.source}."
        self.beam_size = int(cfg.DECODE_STRATEGY.BEAM_SIZE)
        self.has_beta = bool(cfg.MODEL.SS_ATTENTION.ENABLED)
        self.ground_by = cfg.INFERENCE.GROUND_BY if self.has_beta else "alpha"  # which gamma is without beta
        self._lock = threading.Lock()  # one picture at a time: the beam size belongs to the model

    def answer(self, path: Path, name: str, beam_size: int) -> Answer:
        """Caption a picture file; ``name`` stands for it on the page and in messages, and a beam of 1 is greedy.

        Raises:
            UserError: the file is not a picture that can be read, or the detector found nothing.
        """
        from xmodaler_ssattn.app.views import Answer, shrunk
        from xmodaler_ssattn.caption import GroundedCaption
        from xmodaler_ssattn.cli.caption import DRAWN_ONLY
        from xmodaler_ssattn.cli.captioning import caption_regions
        from xmodaler_ssattn.detectors.extract import detect_all
        from xmodaler_ssattn.detectors.pictures import open_upright
        from xmodaler_ssattn.packs.store import Regions
        from xmodaler_ssattn.worlds.drawn.scenes import looks_drawn

        try:
            picture = open_upright(path)
            with self._lock:
                ((_, _, found),) = detect_all(self._detector, [(1, path)])
                if isinstance(found, UserError):
                    raise found
                regions = Regions(1, found.width, found.height, found.boxes_px, found.features, found.class_probs)
                self._captioner.model.beam_searcher.beam_size = beam_size
                (caption,) = caption_regions(self._captioner, [regions])
        except UserError as error:
            raise UserError(visible(str(error).replace(str(path), name))) from error
        assert isinstance(caption, GroundedCaption)  # the decoder has an attention
        shown, scale = shrunk(picture)
        objects = tuple(at for at, word in enumerate(caption.words) if self._spoken(word.text))
        notice = f"This is not a drawn scene. {DRAWN_ONLY}" if self._drawn and not looks_drawn(picture) else ""
        return Answer(name, shown, scale, caption, objects, self.ground_by, notice)
