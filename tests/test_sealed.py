"""Sealed files: every changed byte is found, and every other reader reads them as before."""

import random

import pytest
import torch

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.safe_load import safe_load
from xmodaler_ssattn.sealed import is_intact, save_sealed


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "a.pth"
    save_sealed(path, {"w": torch.arange(6.0).view(2, 3), "n": [1, "two"]})
    return path


def test_a_sealed_file_is_read_as_any_other(sealed):
    assert is_intact(sealed) is True
    for content in (torch.load(sealed, weights_only=True), safe_load(sealed, checksums=True)):
        assert torch.equal(content["w"], torch.arange(6.0).view(2, 3)) and content["n"] == [1, "two"]
    assert [path.name for path in sealed.parent.iterdir()] == ["a.pth"]


def test_each_changed_byte_is_found(sealed):
    whole = sealed.read_bytes()
    rng = random.Random(0)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        sealed.write_bytes(changed)
        assert is_intact(sealed) is False, place


def test_a_shortened_or_extended_file_is_not_intact(sealed):
    whole = sealed.read_bytes()
    for size in range(4, len(whole), 7):
        sealed.write_bytes(whole[:size])
        assert not is_intact(sealed), size
    sealed.write_bytes(whole + b"\0")
    assert is_intact(sealed) is False


def test_files_that_were_never_sealed_are_neither_intact_nor_damaged(tmp_path):
    torch.save({"a": 1}, tmp_path / "zip.pth")
    torch.save({"a": 1}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "empty.pth").touch()
    assert [is_intact(tmp_path / name) for name in ("zip.pth", "old.pth", "empty.pth")] == [None, None, None]
    with pytest.raises(UserError, match="cannot be read"):
        is_intact(tmp_path / "none.pth")


def test_a_failed_save_leaves_the_old_file(sealed, monkeypatch):
    before = sealed.read_bytes()
    monkeypatch.setattr(torch, "save", lambda content, file: file.write(b"not an archive at all, but long enough"))
    with pytest.raises(RuntimeError, match="last record"):
        save_sealed(sealed, {})
    assert sealed.read_bytes() == before and len(list(sealed.parent.iterdir())) == 1
