"""``xmodaler caption``: a sentence for a photograph, and a box for each object word."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xmodaler_ssattn.cli.extract import list_failed
from xmodaler_ssattn.cli.output import printable, visible, warn
from xmodaler_ssattn.errors import UserError

if TYPE_CHECKING:
    from xmodaler_ssattn.caption import Caption
    from xmodaler_ssattn.cli.captioning import Captioner
    from xmodaler_ssattn.detectors.detected import Detector
    from xmodaler_ssattn.detectors.pictures import PackedPicture
    from xmodaler_ssattn.evaluation.object_words import ObjectWords
    from xmodaler_ssattn.packs.store import Regions

AT_ONCE = 8  # images captioned together; captions are printed as they are made
REGION_MAKER = "region_maker.npz"
DRAWN_ONLY = (
    "The captioner was trained only on drawn scenes, so the caption will not describe it; photographs need a captioner "
    "and a detector that were trained on photographs."
)
PAGES = (".html", ".htm")

TEXT = """\
Captions photographs with a trained model, and prints for each object word its box (x1 y1 x2 y2 in pixels) and the
attention on it. The model's config.yaml and vocabulary are found from the checkpoint.

  xmodaler caption photo.jpg --weights run/model_final.pth --detector detector.pth --report page.html
  xmodaler caption demo/data/Images/100001.jpg --weights demo/ss_attn_words      a sample scene; needs nothing else
  xmodaler caption photos.zip --weights run/model_final.pth --detector detector.pth       all pictures of an archive
  xmodaler caption --regions regions.h5 --ids 17 18 --weights run/model_final.pth
"""


class CaptionJob(NamedTuple):
    """One image to caption: its id, the name to print, its picture if there is one, and its regions."""

    image_id: int
    name: str
    picture: Path | PackedPicture | None
    regions: Regions


def add_parser(subparsers: Any) -> None:
    from xmodaler_ssattn.cli.detectors import add_captioner_arguments

    parser = subparsers.add_parser("caption", description=TEXT, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="picture files, or folders, zip, tar and parquet files of pictures")
    add("--regions", metavar="FILE", help="read the regions from this file instead of running a detector")
    add("--ids", nargs="+", type=int, metavar="ID", help="with --regions: these images (default: all)")
    add("--images", metavar="PATH", help="with --regions: pictures, named by image id, for the report")
    add("--report", metavar="FILE", help="write a page of the captions, one HTML file: page.html")
    add("--json", metavar="FILE", help="write a results file, as `xmodaler report` and `xmodaler export` read it")
    add_captioner_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from xmodaler_ssattn.cli.captioning import caption_regions, load_captioner
    from xmodaler_ssattn.evaluation.object_words import ObjectWords
    from xmodaler_ssattn.partners import decoder_attends

    _check_arguments(args)
    shown = ["INFERENCE.SAVE_ATTENTION", "True"] if args.report or args.json else []
    opts = [*shown, *args.opts]
    captioner = load_captioner(
        args.weights, config_file=args.config_file, vocabulary=args.vocabulary, device=args.device, opts=opts
    )
    if not decoder_attends(captioner.cfg):
        print(f"MODEL.DECODER {captioner.cfg.MODEL.DECODER} has no attention: the captions have no boxes.", flush=True)
    failed: list[str] = []
    with ExitStack() as stack:
        jobs = _from_store(captioner, args, stack) if args.regions else _from_photos(captioner, args, failed)
        spoken = ObjectWords.of_model(captioner.cfg.INFERENCE.VOCAB)
        captions: list[tuple[CaptionJob, Caption]] = []
        while chunk := list(islice(jobs, AT_ONCE)):
            for job, caption in zip(chunk, caption_regions(captioner, [job.regions for job in chunk])):
                print(visible(as_text(job.name, caption, spoken)), flush=True)
                captions.append((job._replace(regions=None), caption))
        if captions and (args.json or args.report):
            _write(captioner, captions, spoken, args)
    return list_failed(failed, len(captions) + len(failed))


def _check_arguments(args: argparse.Namespace) -> None:
    if args.regions and (args.photos or args.detector):
        raise UserError("caption: --regions replaces photos and --detector; give only one of them.")
    if not args.regions and not args.photos:
        raise UserError("caption: give picture files, or --regions FILE.")
    if args.report and Path(args.report).suffix.lower() not in PAGES:
        raise UserError(f"--report: {args.report} will be one HTML file; give it a name that ends in .html.")
    for option, path in (("--report", args.report), ("--json", args.json)):
        if path and Path(path).is_dir():
            raise UserError(f"{option}: {path} is a folder, expected the name of a file.")
        if path and any(os.path.realpath(path) == os.path.realpath(photo) for photo in args.photos):
            raise UserError(f"{option}: {path} is one of the pictures and would be overwritten; give another name.")
    given = [f"--{name}" for name in ("ids", "images") if getattr(args, name)]
    if given and not args.regions:
        raise UserError(f"caption: {' and '.join(given)} need --regions FILE.")


# --- where regions come from ---------------------------------------------------------------------------
def _from_store(captioner: Captioner, args: argparse.Namespace, stack: ExitStack) -> Iterator[CaptionJob]:
    from xmodaler_ssattn.cli.captioning import check_fit
    from xmodaler_ssattn.cli.data_files import warn_of_other_regions
    from xmodaler_ssattn.cli.pictures import folder_of_pictures
    from xmodaler_ssattn.packs.store import RegionStore
    from xmodaler_ssattn.report.pictures import find_pictures

    store = RegionStore(args.regions)
    check_fit(captioner, store.feature_dim, store.num_classes, args.regions)
    warn_of_other_regions(captioner.cfg, store.attributes, args.regions)
    if captioner.cfg.DATALOADER.SAMPLE_SCENES and not str(store.attributes.get("source")).startswith("sample scenes"):
        warn(f"{args.regions}: the regions are not from drawn scenes. {DRAWN_ONLY}")
    ids = store.ids.tolist() if args.ids is None else list(dict.fromkeys(args.ids))
    empty = [image_id for image_id in ids if not store.num_boxes(image_id)]  # an id that is not in the file is an error
    if empty:
        raise UserError(f"{args.regions}: {len(empty)} images have no region to caption: {empty[:10]}")
    pictures: dict[int, Path] = {}
    if args.images:
        pictures = find_pictures(stack.enter_context(folder_of_pictures(args.images, ids)), ids)
    for image_id in ids:
        yield CaptionJob(image_id, f"image {image_id}", pictures.get(image_id), store.read(image_id))


def _from_photos(captioner: Captioner, args: argparse.Namespace, failed: list[str]) -> Iterator[CaptionJob]:
    from xmodaler_ssattn.detectors.extract import detect_all
    from xmodaler_ssattn.detectors.pictures import open_upright
    from xmodaler_ssattn.detectors.sources import is_collection, open_source
    from xmodaler_ssattn.packs.store import Regions
    from xmodaler_ssattn.worlds.drawn.scenes import looks_drawn

    sources = {path: open_source(path) for path in dict.fromkeys(args.photos) if is_collection(path)}
    detector = detector_for(captioner, args)

    def photos() -> Iterator[Path | PackedPicture]:
        for path in dict.fromkeys(args.photos):
            if path in sources:
                yield from (picture for _, picture in sources[path].read(sources[path].names))
            else:
                yield Path(path)

    for number, path, found in detect_all(detector, enumerate(photos(), 1), args.batch):
        if isinstance(found, UserError):
            failed.append(str(found))
            continue
        if captioner.cfg.DATALOADER.SAMPLE_SCENES and not looks_drawn(open_upright(path)):
            warn(f"{_name_of_picture(path)}: this is not a drawn scene. {DRAWN_ONLY}")
        regions = Regions(number, found.width, found.height, found.boxes_px, found.features, found.class_probs)
        shown = path if args.report or isinstance(path, Path) else None  # not all bytes of an archive, if not needed
        yield CaptionJob(number, _name_of_picture(path), shown, regions)


def _name_of_picture(picture: Path | PackedPicture) -> str:
    return printable(picture) if isinstance(picture, Path) else str(picture)


def detector_for(captioner: Captioner, args: argparse.Namespace) -> Detector:
    """The detector of ``args.detector``, or that of the sample scenes; it must fit the captioner."""
    from xmodaler_ssattn.cli.captioning import check_fit
    from xmodaler_ssattn.cli.data_files import warn_of_other_regions
    from xmodaler_ssattn.cli.detectors import open_detector

    weights = args.detector or Path(captioner.cfg.INFERENCE.VOCAB).parent / REGION_MAKER
    if not args.detector and not weights.is_file():
        raise UserError(
            "--detector: give the weights of the detector whose regions the captioner was trained on "
            f"(a default exists only for sample scenes; there is no {weights})."
        )
    detector, _ = open_detector(weights, args)
    check_fit(captioner, detector.feature_dim, detector.num_classes + 1, weights)
    warn_of_other_regions(captioner.cfg, {"weights_sha256": detector.weights_sha256 or ""}, weights)
    print(f"Detector: {detector.source}; {weights}, sha256 {detector.weights_sha256}", flush=True)
    return detector


# --- output ------------------------------------------------------------------------------------
def as_text(name: str, caption: Caption, spoken: ObjectWords) -> str:
    """The caption, and a line per object word with a region: its box (x1, y1, x2, y2, pixels) and its attention."""
    lines = [name, f"  {caption or '(no word)'}"]
    objects = [word for word in getattr(caption, "words", ()) if spoken(word.text)]
    width = max((len(word.text) for word in objects), default=0)
    for word in objects:
        box = " ".join(f"{side:6.0f}" for side in word.box_px)
        lines.append(f"    {word.text:{width}}  {box}   {word.weight:.2f}")
    return "\n".join(lines)


def name_of_run(weights: Path) -> str:
    """The name of the run's folder."""
    weights = weights.resolve()
    return printable(weights.name if weights.is_dir() else weights.parent.name)


def _write(
    captioner: Captioner, captions: Sequence[tuple[CaptionJob, Caption]], spoken: ObjectWords, args: argparse.Namespace
) -> None:
    from xmodaler_ssattn.detectors.pictures import open_upright
    from xmodaler_ssattn.evaluation.results import ImageResult, Results, write_results
    from xmodaler_ssattn.report.single_file import write_single_file
    from xmodaler_ssattn.report.source import read_source

    captions = [(job, caption.with_companions()) for job, caption in captions]
    objects = spoken.among(sorted({word.text for _, caption in captions for word in getattr(caption, "words", ())}))
    header = {
        "ground_by": captioner.cfg.INFERENCE.GROUND_BY,
        "region_rule": captioner.cfg.INFERENCE.REGION_RULE,
        "config": captioner.cfg.dump(),
        "pictures": {str(job.image_id): job.name for job, _ in captions},
    }
    results = Results(tuple(ImageResult(job.image_id, caption) for job, caption in captions), objects, header)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(args.json) if args.json else Path(folder) / "captions.json"
        write_results(path, results, save_attention=True)
        if args.json:
            print(f"Written to {path}.")
        if args.report:
            source = read_source([path], [name_of_run(Path(args.weights))])
            source.notices.clear()  # about annotations, which photographs do not have
            pictures = ((job.image_id, open_upright(job.picture)) for job, _ in captions if job.picture is not None)
            write_single_file(Path(args.report), source, pictures, title="Captions")
            print(f"Open {Path(args.report).resolve()}")
