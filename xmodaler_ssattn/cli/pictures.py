"""Pictures of an archive or a table as files, for the commands that show them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.ids import PICTURE_SUFFIXES, id_in_name

if TYPE_CHECKING:
    from xmodaler_ssattn.detectors.sources import PictureSource

IMAGES_HELP = "a folder, zip or tar archive, or parquet files"


@contextlib.contextmanager
def folder_of_pictures(
    images: str | os.PathLike, image_ids: Iterable[int], names: Collection[str] = ()
) -> Iterator[Path]:
    """A folder with these pictures, named by image id.

    This is ``images`` itself if it is a folder of pictures. From an archive or parquet files they are copied into a
    temporary folder, which is removed at the end; pictures that cannot be read are left out.

    Args:
        images: as ``xmodaler extract --images``; a picture whose name gives no id is ignored.
        names: of pictures that are known by name, without folders; they keep it.
    """
    source = packed_source(images)
    if source is None:
        yield Path(images)  # the page says what is wrong with it
        return
    wanted, targets = set(image_ids), {}
    for name in source.names:
        base = name.rsplit("/", 1)[-1]
        with contextlib.suppress(UserError):  # a picture of something else
            if base in names:
                targets[name] = base
            elif (number := id_in_name(name)) in wanted:
                targets[name] = f"{number}{suffix_of(name)}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / source.where.name
        folder.mkdir()
        unpack(source, targets, folder)
        try:
            yield folder
        except UserError as error:
            raise UserError(str(error).replace(str(folder), os.fspath(images))) from error


def packed_source(images: str | os.PathLike) -> PictureSource | None:
    """The pictures of an archive or of parquet files; None for a folder of pictures, or another path."""
    from xmodaler_ssattn.detectors.folder import FolderPictures
    from xmodaler_ssattn.detectors.sources import PARQUET, is_collection, open_source

    if not is_collection(images) or (Path(images).is_dir() and not any(Path(images).glob(f"*{PARQUET}"))):
        return None
    source = open_source(images)
    return None if isinstance(source, FolderPictures) else source


def suffix_of(name: str) -> str:
    """A picture's suffix; ".jpg" for a number from a table, since viewers look inside."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix in PICTURE_SUFFIXES else ".jpg"


def unpack(source: PictureSource, targets: Mapping[str, str], folder: Path) -> None:
    """Write pictures of a source, name -> file name in ``folder``; the first of several with the same file name.

    Pictures that cannot be read are left out.
    """
    from xmodaler_ssattn.detectors.pictures import PackedPicture

    for name, picture in source.read(targets):
        path = folder / targets[name]
        if isinstance(picture, PackedPicture) and isinstance(picture.data, bytes) and not path.exists():
            path.write_bytes(picture.data)
