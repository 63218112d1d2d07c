"""The configs and plans that come with the package, and how a config is found by its name.

A name is resolved in this order:

1. a path that exists: relative to the working directory, or to the file that names it (``_BASE_``, a plan);
2. the name of a shipped file, such as ``flickr30k_entities/ss_attn.yaml``, also with ``configs/`` before it, so that
   ``configs/flickr30k_entities/ss_attn.yaml`` works in a clone and in any folder.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_lines

PLAN = ".plan.yaml"


def folder() -> Path:
    """The folder of the shipped files: in an installed wheel inside the package, in a clone beside it.

    Raises:
        UserError: the package was copied without its configs.
    """
    package = Path(__file__).parent
    for place in (package / "configs", package.parent / "configs"):
        if (place / "flickr30k_entities").is_dir():
            return place
    raise UserError(
        f"The configs of this package are missing: {package / 'configs'} does not exist. Install it with pip, which "
        "puts them there."
    )


def names() -> list[str]:
    """All shipped configs and plans, such as ``flickr30k_entities/ss_attn.yaml``, sorted."""
    place = folder()
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*.yaml"))


def find(name: str | os.PathLike, what: str, beside: Path | None = None) -> Path:
    """The file of a config or plan; see the order in the module's docstring.

    Args:
        what: the role of the file, for the message.
        beside: the folder that a relative path starts from; None: the working directory.

    Raises:
        UserError: there is no such file; the message has the nearest names.
    """
    path = Path(name) if beside is None else beside / Path(name).expanduser()
    if os.path.lexists(path):
        return path
    shipped = Path(name).as_posix().removeprefix("configs/")
    known = names()
    if shipped in known:
        return folder() / shipped
    meant = ". `xmodaler train --help` lists these configs."
    if near := _nearest(path, shipped, known):
        meant = f"; did you mean {', '.join(near[:-1])}{' or ' if near[1:] else ''}{near[-1]}?"
    raise UserError(f"{what}: the file {path} does not exist, and no config of the package has this name{meant}")


def _nearest(path: Path, shipped: str, known: list[str]) -> list[str]:
    """Shipped files of the same file name; else similar names: of yaml files in the path's folder, of shipped files."""
    if namesakes := [other for other in known if Path(other).name == path.name]:
        return namesakes
    neighbours = [str(other) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    if near := difflib.get_close_matches(str(path), neighbours, n=1):
        return near
    if "/" in shipped:
        return difflib.get_close_matches(shipped, known, n=3)
    stems = difflib.get_close_matches(Path(shipped).stem, sorted({Path(other).stem for other in known}), n=1)
    return [other for other in known if Path(other).stem in stems]


def listing() -> str:
    """The shipped configs for a command's help; what each is comes from its first line, ``# WHAT: more``."""
    place = folder()
    lines = [f"configs of the package, found by name in any folder (the files are in {place}):"]
    for name in names():
        if not name.endswith(PLAN) and not name.rsplit("/", 1)[-1].startswith("base"):
            first = read_lines(place / name, "A config of the package")[0]
            lines.append(f"  {name:46s}{first.lstrip('# ').split(': ')[0].rstrip('.')}")
    return "\n".join(lines)
