"""Files with a seal: a text at their end with the sha256 of all bytes before it.

In a file of ``torch.save`` the seal is the comment that a zip archive may have; behind an HDF5 file it is ignored. So
every reader of these formats reads sealed files. The seal covers each byte, the checksums of a zip archive do not.
"""

from __future__ import annotations

import hashlib
import os
from typing import IO, Any

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path, hash_of, sync_folder
from xmodaler_ssattn.progress import doing

_MARK = b"sha256 of all bytes before this text: "
SEAL_BYTES = len(_MARK) + 64
_END = b"PK\x05\x06"  # of a zip archive's last record, 22 bytes without the comment; its length comes last
_RECORD = 22
_ZIP_START, _HDF5_START = b"PK\x03\x04", b"\x89HDF"


class _Hashing:
    """A file for writing that hashes what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None  # torch replaces it by one of its own

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def save_sealed(path: str | os.PathLike, content: Any) -> None:
    """``torch.save`` atomically, with a seal; the file then survives a power failure.

    The hash is that of the archive without a comment, whose last two bytes, the comment's length, are 0.
    """
    import torch  # region files are sealed without it

    with atomic_path(path) as temporary, open(temporary, "w+b") as file:
        hashing = _Hashing(file)
        try:
            torch.save(content, hashing)
        except RuntimeError:
            if hashing.error is None:
                raise
            raise hashing.error from None
        file.seek(-_RECORD, os.SEEK_END)
        if file.read(4) != _END:
            raise RuntimeError(f"torch.save did not end {path} with the last record of a zip archive.")
        file.seek(-2, os.SEEK_END)
        file.write(SEAL_BYTES.to_bytes(2, "little") + _MARK + hashing.digest.hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path)


def seal(path: str | os.PathLike) -> None:
    """Append a seal to a complete HDF5 file."""
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        digest = hash_of(file, size)
        file.seek(size)
        file.write(_MARK + digest.hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())


def is_intact(path: str | os.PathLike) -> bool | None:
    """Whether a file equals the one that was sealed, byte for byte; None for a file without a seal.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with doing(f"Comparing the checksum of {path}"), open(path, "rb") as file:
            start, size = file.read(4), file.seek(0, os.SEEK_END)
            file.seek(max(size - SEAL_BYTES, 0))
            text = file.read()
            # Damage may have hit the seal itself. An archive that was never sealed ends with its last record.
            similar = sum(a == b for a, b in zip(text, _MARK)) > len(_MARK) // 2
            unsealed = text[-_RECORD:].startswith(_END) and text.endswith(b"\0\0")
            if not similar and (start != _ZIP_START or unsealed):
                return None
            if size < SEAL_BYTES + _RECORD:
                return False
            file.seek(0)
            if start == _HDF5_START:
                digest, length_is_right = hash_of(file, size - SEAL_BYTES), True
            else:
                digest = hash_of(file, size - SEAL_BYTES - 2)
                length_is_right = file.read(2) == SEAL_BYTES.to_bytes(2, "little")
                digest.update(b"\0\0")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    return text == _MARK + digest.hexdigest().encode() and length_is_right
