"""Make one config from a row and a seed, and compare the configs of two runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodaler_ssattn.cli.configuring import default_config, load_config
from xmodaler_ssattn.configuring import read_config, values_of
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_json, read_lines
from xmodaler_ssattn.packs.region_classes import MANIFESTS
from xmodaler_ssattn.packs.region_file import read_header
from xmodaler_ssattn.reproduce.plan import Plan, Row

# Keys for where a run is computed, not what is computed.
NOT_OF_THE_RUN = ("OUTPUT_DIR", "MODEL.DEVICE", "MODEL.CPU_THREADS", "DATALOADER.NUM_WORKERS", "DATALOADER.CACHE")
BASE, REGIONS = "base.yaml", "regions.h5"
DATA = "{data}"


@dataclass(frozen=True)
class DataFolder:
    """A folder written by `xmodaler prepare`, the sample scenes or the simulation."""

    path: Path  # absolute
    sizes: Mapping[str, Any]  # config values that follow from its content: vocabulary, classes, feature width
    sha256: str  # of its words, test captions and manifest, which identifies the data set
    regions_sha256: str = ""  # of the region file's attributes and shapes (source, weights), not of its numbers


@dataclass(frozen=True)
class Machine:
    """Where a run is computed: ``device`` None for the host's default, ``threads`` 0 for the config's."""

    device: str | None = None
    threads: int = 0


def read_data_folder(folder: str | Path) -> DataFolder:
    """Sizes and identity of a data folder.

    Raises UserError: the folder, vocabulary.txt or captions_test.json is missing, or the region file cannot be read.
    """
    folder = Path(folder).resolve()
    words = folder / "vocabulary.txt"
    needed = [words, folder / "captions_test.json", folder / REGIONS]
    absent = [path.name for path in needed if not path.is_file()]
    if absent:
        raise UserError(f"--data: {folder} lacks {', '.join(absent)}; expected a folder written by `xmodaler prepare`.")
    header = read_header(folder / REGIONS)
    sizes = {
        "MODEL.VOCAB_SIZE": len(read_lines(words, "The vocabulary")) + 1,
        "MODEL.VISUAL_EMBED.IN_DIM": header.fields["features"].shape[2],
    }
    if "class_probs" in header.fields:
        sizes["MODEL.SS_ATTENTION.NUM_CLASSES"] = header.fields["class_probs"].shape[2]
    digest = hashlib.sha256(words.read_bytes() + needed[1].read_bytes())
    for name in MANIFESTS:
        if (folder / name).is_file():
            manifest = read_json(folder / name, "The data folder's manifest")
            digest.update((folder / name).read_bytes())
            keys = {"vocabulary_size": "MODEL.VOCAB_SIZE", "num_classes": "MODEL.SS_ATTENTION.NUM_CLASSES"}
            sizes |= {key: manifest[entry] for entry, key in keys.items() if entry in manifest}
    described = {name: (field.shape, str(field.dtype)) for name, field in header.fields.items()}
    described |= {name: str(value) for name, value in header.attributes.items()}
    regions = hashlib.sha256(json.dumps(dict(sorted(described.items()))).encode("utf-8"))
    return DataFolder(folder, sizes, digest.hexdigest(), regions.hexdigest())


def difference_of(config: Path) -> dict[str, Any]:
    """The changes of a row's yaml, with its bases, to the ``base.yaml`` at the end of the chain, by dotted key.

    OUTPUT_DIR is left out. The values of the file itself win over those of its bases.

    Raises UserError: a missing or broken file, or a chain without a ``base.yaml``.
    """
    settings = read_config(config)
    if not any(Path(setting.where).name == BASE for setting in settings.values()):
        raise UserError(
            f"{config}: expected a chain of _BASE_ that ends in {BASE}; the row's difference from that file is "
            "applied to the plan's base."
        )
    own = {key: setting for key, setting in settings.items() if key not in ("OUTPUT_DIR", "VERSION")}
    return {key: setting.value for key, setting in own.items() if Path(setting.where).name != BASE}


def settings_of(plan: Plan, row: Row, seed: int, data: DataFolder) -> tuple[str, dict[str, Any]]:
    """(config file, values by dotted key that override it) of a row's run. Later ones override earlier ones:

    sizes of the data, the row's difference (with another base), the plan's common values, the row's, the seed.

    Raises UserError: the row's config is missing or broken.
    """
    if row.config is None:
        raise UserError("the row has no config; it only quotes the paper.")
    if not row.config.is_file():
        raise UserError(f"the config {row.config} does not exist.")
    values = dict(data.sizes)
    config = row.config
    if plan.base is not None:
        config = plan.base
        # The sample scenes' own config would draw them again; here the data are given.
        values |= {"DATALOADER.SAMPLE_SCENES": 0} | difference_of(row.config)
    values |= {**plan.common, **row.set, "SEED": seed}
    return str(config.resolve()), {key: renamed(value, DATA, str(data.path)) for key, value in values.items()}


def training_values(values: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """``values`` with this program's settings for training: val after every epoch; test is scored later, separately."""
    defaults = {"INFERENCE.FINAL_METRICS": [], "SOLVER.KEEP_BEST": "val/CIDEr"}
    return {**defaults, **values, "DATASETS.TEST": "", "OUTPUT_DIR": str(output)}


def renamed(value: Any, old: str, new: str) -> Any:
    """``value`` with ``old`` replaced by ``new`` in every text."""
    if isinstance(value, str):
        return value.replace(old, new)
    return [renamed(item, old, new) for item in value] if isinstance(value, list) else value


def words_of(values: Mapping[str, Any]) -> list[str]:
    """KEY VALUE words as a command line takes them."""
    return [word for key, value in values.items() for word in (key, value if isinstance(value, str) else repr(value))]


def config_of(config: str, values: Mapping[str, Any], data: DataFolder, machine: Machine) -> Any:
    """The full config. Raises UserError: see ``load_config``."""
    if machine.threads:
        values = {**values, "MODEL.CPU_THREADS": machine.threads}
    return load_config(config, words_of(values), data=str(data.path), device=machine.device)


def identity_of(cfg: Any, data: DataFolder) -> dict[str, Any]:
    """Every value that affects the result of a run, by dotted key, as plain JSON; the data folder as ``{data}``.

    OUTPUT_DIR, device, threads, workers and cache are left out: a run can move to another folder or machine.
    """
    flat = {key: renamed(value, str(data.path), DATA) for key, value in values_of(cfg).items()}
    flat = {key: value for key, value in flat.items() if key not in NOT_OF_THE_RUN}
    return dict(sorted(flat.items())) | {"data_sha256": data.sha256, "regions_sha256": data.regions_sha256}


def identity_sha256(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(sorted(identity.items()))).encode("utf-8")).hexdigest()


def defaults_of(cfg: Any) -> dict[str, Any]:
    """The host's and our defaults for the same architecture, by dotted key."""
    return values_of(default_config(values_of(cfg), "the config"))


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The differences between a stored run and the wanted one, one phrase per key; [] when they are equal.

    A key that was added to the program after the run is unchanged if it has its default. A key that was removed from
    the program is ignored.
    """
    before = {**defaults, **stored}
    keys = [key for key in sorted(wanted) if key in before and before[key] != wanted[key]]
    return [f"{key} was {before[key]!r}, now {wanted[key]!r}" for key in keys]
