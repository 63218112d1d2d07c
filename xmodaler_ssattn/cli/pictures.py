"""Pictures of an archive or a table as files, for the commands that show them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.ids import PICTURE_SUFFIXES, id_in_name


@contextlib.contextmanager
def folder_of_pictures(images: str | os.PathLike, image_ids: Iterable[int]) -> Iterator[Path]:
    """A folder with these pictures, named by image id.

    This is ``images`` itself if it is a folder of pictures. From an archive or parquet files they are copied into a
    temporary folder, which is removed at the end; pictures that cannot be read are left out.

    Args:
        images: as ``xmodaler extract --images``; a picture whose name gives no id is ignored.
    """
    from xmodaler_ssattn.detectors.folder import FolderPictures
    from xmodaler_ssattn.detectors.pictures import PackedPicture
    from xmodaler_ssattn.detectors.sources import PARQUET, is_collection, open_source

    plain = not is_collection(images) or (Path(images).is_dir() and not any(Path(images).glob(f"*{PARQUET}")))
    source = None if plain else open_source(images)
    if source is None or isinstance(source, FolderPictures):
        yield Path(images)  # the page says what is wrong with it
        return
    wanted, named = set(image_ids), {}
    for name in source.names:
        with contextlib.suppress(UserError):  # a picture of something else
            if (number := id_in_name(name)) in wanted:
                named.setdefault(name, number)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / source.where.name  # the name that messages show
        folder.mkdir()
        for name, picture in source.read(named):
            if isinstance(picture, PackedPicture) and isinstance(picture.data, bytes):
                suffix = os.path.splitext(name)[1].lower()
                suffix = suffix if suffix in PICTURE_SUFFIXES else ".jpg"  # a number from a table; viewers look inside
                (folder / f"{named[name]}{suffix}").write_bytes(picture.data)
        yield folder
