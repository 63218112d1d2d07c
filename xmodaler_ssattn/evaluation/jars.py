"""The jar files of pycocoevalcap, and what is missing to run SPICE."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

CORENLP_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
CORENLP_VARIABLE = "SSATTN_CORENLP"
HOW_TO_GET_CORENLP = (
    "unpack stanford-corenlp-full-2015-12-09.zip from the Stanford NLP group's download page and set "
    f"{CORENLP_VARIABLE} to the folder that holds {' and '.join(CORENLP_JARS)}; with network access "
    "`python -m pycocoevalcap.spice.get_stanford_models` downloads them into pycocoevalcap's own folder"
)


def package_folder() -> Path:
    """The folder of the installed pycocoevalcap.

    Raises:
        FileNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package pycocoevalcap is not installed (`pip install pycocoevalcap`)")
    return Path(next(iter(spec.submodule_search_locations)))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing from pycocoevalcap; reinstall it")
    return path


def tokenizer_jar() -> Path:
    """The PTB tokeniser. Raises FileNotFoundError."""
    return _existing(package_folder() / "tokenizer" / "stanford-corenlp-3.4.1.jar")


def meteor_jar() -> Path:
    """METEOR 1.5. Raises FileNotFoundError."""
    return _existing(package_folder() / "meteor" / "meteor-1.5.jar")


def meteor_paraphrases() -> Path:
    """METEOR's table of English paraphrases. Raises FileNotFoundError."""
    return _existing(package_folder() / "meteor" / "data" / "paraphrase-en.gz")


def spice_engine_jar() -> Path:
    """Stands in for the JavaScript engine that SPICE needs and Java 15 removed; see resources/spice_engine.

    Raises:
        FileNotFoundError: it was left out of this installation.
    """
    jar = Path(__file__).parent / "resources" / "spice_engine" / "spice_engine.jar"
    if not jar.is_file():
        raise FileNotFoundError(f"{jar} is missing; reinstall xmodaler_ssattn")
    return jar


def spice_class_path() -> list[Path]:
    """SPICE 1.0, its libraries, the CoreNLP 3.6.0 jars that pycocoevalcap does not carry, and our script engine.

    The CoreNLP jars are looked for in the folder that ``SSATTN_CORENLP`` names, then in pycocoevalcap's ``spice/lib``.

    Raises:
        FileNotFoundError: says which file is missing and how to get it.
    """
    folder = package_folder() / "spice"
    spice = _existing(folder / "spice-1.0.jar")
    places = [folder / "lib"]
    if named := os.environ.get(CORENLP_VARIABLE, "").strip():
        places.insert(0, Path(named).expanduser())
    for place in places:
        corenlp = [place / name for name in CORENLP_JARS]
        if all(jar.is_file() for jar in corenlp):
            others = sorted(jar for jar in (folder / "lib").glob("*.jar") if jar.name not in CORENLP_JARS)
            return [spice, *others, *corenlp, spice_engine_jar()]
    looked = " and ".join(str(place) for place in places)
    raise FileNotFoundError(f"the CoreNLP 3.6.0 models are not in {looked}; to get them, {HOW_TO_GET_CORENLP}")
