"""Floors and ceilings of a data folder: read, computed once, kept in the summary."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.floors import RULES, WITH_CLASSES, WITHOUT_REGIONS, ImageBoxes, floors_and_ceilings
from xmodaler_ssattn.evaluation.grounding import GENERATED_SCORES
from xmodaler_ssattn.evaluation.gvd_format import read_reference
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.packs.region_classes import class_columns, region_classes
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.reproduce.collecting import public
from xmodaler_ssattn.reproduce.settings import REGIONS, DataFolder


def read_floors(
    folder: str | os.PathLike,
    split: str = "test",
    *,
    regions: str | os.PathLike | None = None,
    class_names: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Floors and ceilings of one split of a data folder.

    Args:
        folder: written by `xmodaler prepare`; without a region file, only the rules that need no regions are scored.
        regions: another region file than the folder's.
        class_names: the names of the class probabilities, see ``region_classes``.

    Returns:
        ``rules``: see ``floors_and_ceilings``; ``notes``: reasons why rules are left out, and the share of the
        annotated words whose class is in the class probabilities.

    Raises:
        UserError: no reference, an unreadable file, or an image without regions.
    """
    folder = Path(folder)
    reference = read_reference(folder / f"grounding_{split}.json")
    lemmas = Lemmas.of_folder(folder)
    path = Path(regions or folder / REGIONS)
    if regions is None and not path.is_file():
        sizes = {int(record["image_id"]): record.get("image_size") for record in reference.images}
        unknown = [image_id for image_id, size in sizes.items() if size is None]
        if unknown:
            raise UserError(
                f"{folder / f'grounding_{split}.json'}: {len(unknown)} of {len(sizes)} images have no image_size, e.g. "
                f"{unknown[:5]}, and there is no {path.name} to take it from."
            )
        found = floors_and_ceilings(reference.images, lambda i: ImageBoxes(*sizes[i], ()), lemmas, {}, WITHOUT_REGIONS)
        return {"rules": found, "notes": [f"There is no {path.name}: only the rules that need no regions are here."]}
    store = RegionStore(path)
    names = region_classes(folder, store.num_classes, class_names, store.attributes)
    notes, rules, columns = [], RULES, {}
    if names is None:
        rules = tuple(rule for rule in RULES if rule not in WITH_CLASSES)
        reason = "have no class probabilities" if store.num_classes is None else "do not name their classes"
        notes.append(f"No rules of the detector: the regions {reason}.")
    else:
        columns = class_columns(names, reference.classes, lemmas)
        said = [name for record in reference.images for c in record["captions"] for name in c["process_clss"]]
        known = sum(name in columns for name in said) / max(len(said), 1)
        notes.append(f"The class probabilities name the class of {100 * known:.1f} % of the annotated words.")

    def image_of(image_id: int) -> ImageBoxes:
        if names is None:
            return ImageBoxes(*store.image_size(image_id), store.boxes_px(image_id))
        read = store.read(image_id)
        return ImageBoxes(read.width, read.height, read.boxes_px, read.class_probs)

    return {"rules": floors_and_ceilings(reference.images, image_of, lemmas, columns, rules), "notes": notes}


def kept_floors(data: DataFolder, summary: Path) -> dict[str, Any]:
    """``read_floors`` for test, or its copy in an older summary of the same data with the same scores.

    An error becomes a note: a table without floors is better than no table.

    Args:
        summary: the summary.json that may hold them.
    """
    of = [data.sha256, data.regions_sha256, *GENERATED_SCORES]
    with contextlib.suppress(UserError):  # a damaged summary will be rewritten
        before = read_json(summary, "The summary") if summary.is_file() else None
        floors = before.get("floors") if isinstance(before, Mapping) else None
        if isinstance(floors, Mapping) and floors.get("of") == of:
            return dict(floors)
    try:
        return {"of": of, **read_floors(data.path)}
    except UserError as error:
        return {"of": None, "rules": {}, "notes": [public(f"No floors and ceilings: {error}")]}
