"""A full disk at every kind of write: the error names the file, and nothing half-written stays."""

import errno
import os

import pytest
import torch

from packs.test_store import made_up
from xmodaler_ssattn.files import mount_of, write_json, write_text
from xmodaler_ssattn.packs.store import RegionWriter
from xmodaler_ssattn.sealed import save_sealed


class Full:
    """Stands for ``os.write`` and file objects on a full disk."""

    def __call__(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")


def full_regions(path):
    with RegionWriter(path, [7], 3, 4, 5, source="test") as writer:
        writer.write(7, **made_up(7))


WRITES = {
    "text": (lambda path: write_text(path, "x"), "pathlib.Path.write_text"),
    "json": (lambda path: write_json(path, [1]), "json.dump"),
    "checkpoint": (lambda path: save_sealed(path, {"a": torch.zeros(3)}), "xmodaler_ssattn.sealed._Hashing.flush"),
    "regions": (full_regions, "os.pwrite"),
}


@pytest.mark.parametrize("kind", WRITES)
def test_the_file_is_named_and_nothing_stays(tmp_path, monkeypatch, kind):
    write, owner = WRITES[kind]
    path = tmp_path / "a.out"
    with monkeypatch.context() as patch:
        if kind == "checkpoint":
            patch.setattr("xmodaler_ssattn.sealed._Hashing.write", _write_to_full_disk)
        else:
            patch.setattr(owner, Full())
        with pytest.raises(OSError, match="No space left") as caught:
            write(path)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
    write(path)
    assert path.stat().st_size > 0


def _write_to_full_disk(self, data):
    self.error = OSError(errno.ENOSPC, "No space left on device")
    raise self.error


def test_hdf5_on_a_full_disk_is_the_same_error(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')")

    monkeypatch.setattr("xmodaler_ssattn.packs.writer.create_layout", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        full_regions(tmp_path / "r.h5")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "r.h5")


def test_the_mount_of_a_path(tmp_path):
    assert os.path.ismount(mount_of(tmp_path / "not" / "there"))
    assert mount_of("/").as_posix() == "/"
