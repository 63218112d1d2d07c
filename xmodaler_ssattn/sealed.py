"""Files of ``torch.save`` with a seal: the sha256 of the file, in the comment that a zip archive may have at its end.

Every reader of such files ignores the comment. The seal covers each byte, while the checksums inside of the archive,
which torch does not compare, cover only the tensors.
"""

from __future__ import annotations

import hashlib
import os
from typing import IO, Any

import torch

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path, sync_folder
from xmodaler_ssattn.safe_load import ZIP_START

_MARK = b"sha256 of all bytes before, with 0 for the length of this comment: "
_SEAL = len(_MARK) + 64
_END = b"PK\x05\x06"  # of the archive's last record, 22 bytes without a comment
_RECORD = 22


class _Hashing:
    """A file for writing that hashes what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def save_sealed(path: str | os.PathLike, content: Any) -> None:
    """``torch.save`` atomically, with a seal; the file then survives a power failure."""
    with atomic_path(path) as temporary, open(temporary, "w+b") as file:
        hashing = _Hashing(file)
        torch.save(content, hashing)
        file.seek(-_RECORD, os.SEEK_END)
        if file.read(4) != _END:
            raise RuntimeError(f"torch.save did not end {path} with the last record of a zip archive.")
        file.seek(-2, os.SEEK_END)
        file.write(_SEAL.to_bytes(2, "little") + _MARK + hashing.digest.hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path)


def is_intact(path: str | os.PathLike) -> bool | None:
    """Whether a file equals the one that was sealed, byte for byte; None for a file that never had a seal.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            start, size = file.read(4), file.seek(0, os.SEEK_END)
            file.seek(max(size - _SEAL, 0))
            seal = file.read()
            # Damage may have hit the seal itself: an archive without a seal ends with its last record.
            similar = sum(a == b for a, b in zip(seal, _MARK)) > len(_MARK) // 2
            unsealed = seal[-_RECORD:].startswith(_END) and seal.endswith(b"\0\0")
            if unsealed or not (similar or start == ZIP_START):
                return None
            if size < _SEAL + _RECORD:
                return False
            file.seek(0)
            digest, left = hashlib.sha256(), size - _SEAL - 2
            while left:
                block = file.read(min(left, 1 << 20))
                if not block:
                    return False
                digest.update(block)
                left -= len(block)
            length = file.read(2)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    digest.update(b"\0\0")
    return seal == _MARK + digest.hexdigest().encode() and length == _SEAL.to_bytes(2, "little")
