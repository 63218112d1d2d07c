"""An unpickler that runs nothing: tensors, arrays, dictionaries, lists, strings and numbers, or a refusal.

A pickle may call whatever Python can import. Here every name that it may ask for has a stand-in of ours that only
writes down what was asked: array of this type and shape, tensor at this place of that storage. Whatever else it asks
for is refused before it is looked up.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NUMPY_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}


class RefusedPickle(pickle.UnpicklingError):
    """The pickle asks for something that is not read; the other errors of ``DAMAGE`` mean a damaged one."""


# In which ways a damaged or hostile pickle can fail.
DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
)


class Storage(NamedTuple):
    """``numel`` numbers that the file keeps outside of the pickle, under ``key``."""

    dtype: torch.dtype
    key: str
    numel: int


class StoredTensor(NamedTuple):
    """A tensor to be; that it lies inside its storage was checked."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class StoredArray:
    """A numpy array or number: ``data`` is set when the pickle has given its state."""

    # The tensor stays inside: a pickle could call methods of what it is handed.
    def __init__(self, *ignored: Any, data: torch.Tensor | None = None) -> None:
        self.data = data

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        self.data = _from_bytes(raw, dtype, shape, fortran)


class _NumpyType:
    """A numpy type; only plain numbers pass."""

    def __init__(self, name: str, *ignored: Any) -> None:
        self.order = name[0] if name[:1] in ("<", ">", "|", "=") else "="
        self.name = name.lstrip("<>|=")
        if self.name not in NUMPY_TYPES:
            raise RefusedPickle(f"it holds numpy data of type {name!r}, not plain numbers")

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise RefusedPickle(f"a numpy type has the byte order {state[1]!r}")
        self.order = state[1]


class _Names(dict):
    """Any dictionary; what torch hangs on it (versions of modules) is dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Admitted:
    """What a pickle gets in place of a global: it can be called, and nothing of it can be set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise RefusedPickle(f"it tries to set {name!r} of a function")


def _from_bytes(raw: Any, dtype: Any, shape: Any, fortran: bool = False) -> torch.Tensor:
    """A tensor from a numpy array's raw bytes, when their number is that of its shape."""
    if not isinstance(dtype, _NumpyType) or not isinstance(raw, (bytes, bytearray, str)):
        raise RefusedPickle("it holds a numpy array of objects, not of numbers")
    if isinstance(raw, str):  # pickled by Python 2
        raw = raw.encode("latin1")
    shape = tuple(shape)
    numpy_type = np.dtype(dtype.order.replace("|", "=") + dtype.name)
    if not all(isinstance(n, int) and n >= 0 for n in shape) or math.prod(shape) * numpy_type.itemsize != len(raw):
        raise RefusedPickle(f"an array of shape {shape} and type {dtype.name} has {len(raw):,} bytes")
    array = np.frombuffer(raw, dtype=numpy_type).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(array.astype(numpy_type.newbyteorder("="), order="C"))


def _scalar(dtype: Any, raw: Any) -> StoredArray:
    return StoredArray(data=_from_bytes(raw, dtype, ()))


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: str = "C") -> StoredArray:
    return StoredArray(data=_from_bytes(raw, dtype, shape, order == "F"))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 pickles bytes for Python 2."""
    if encoding != "latin1":
        raise RefusedPickle(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *ignored: Any) -> StoredTensor:
    size, stride = tuple(size), tuple(stride)
    if (
        not isinstance(storage, Storage)
        or len(size) != len(stride)
        or not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride))
    ):
        raise RefusedPickle("it describes a tensor that cannot be")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if 0 not in size and last >= storage.numel:
        raise RefusedPickle(f"a tensor of shape {size} needs more than the {storage.numel:,} numbers stored for it")
    return StoredTensor(storage, offset, size, stride)


def _first(data: Any, *ignored: Any) -> Any:
    return data


def _dictionary(*args: Any) -> _Names:
    return _Names(*args[:1])


def _default_dictionary(*args: Any) -> _Names:
    return _Names(*args[1:2])


def _nothing(*ignored: Any) -> None:
    """For what a file may mention and nobody uses."""


ADMITTED: dict[tuple[str, str], Callable[..., Any] | torch.dtype] = {
    ("collections", "OrderedDict"): _dictionary,
    ("collections", "Counter"): _dictionary,
    ("collections", "defaultdict"): _default_dictionary,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _nothing,
    ("numpy", "dtype"): _NumpyType,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): StoredArray for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch", "Size"): tuple,
    ("torch", "device"): _nothing,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


def _check_lengths(file: BinaryIO) -> None:
    """Read over a pickle without doing what it says.

    Python's own unpickler reserves whatever length a damaged pickle names, and memory up to the highest place in
    its memo: a few bytes would take all memory there is.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
            raise RefusedPickle(f"it remembers its object number {argument:,}, and has {count:,} so far")


class PlainUnpickler(pickle.Unpickler):
    """``load()`` returns plain values, ``StoredArray`` and ``StoredTensor``.

    Args:
        file: seekable, at the beginning of a pickle; ``load`` leaves it behind the pickle's end.

    Attributes:
        storages: every storage that the pickle refers to, by key.

    Raises:
        one of ``DAMAGE``; ``RefusedPickle`` when the file is whole and asks for something else.
    """

    def __init__(self, file: BinaryIO) -> None:
        # Files of Python 2 hold arrays as strings; latin1 keeps their bytes.
        super().__init__(file, encoding="latin1")
        self._file = file
        self.storages: dict[str, Storage] = {}

    def load(self) -> Any:
        start = self._file.tell()
        _check_lengths(self._file)
        self._file.seek(start)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        try:
            made = ADMITTED[module, name]
        except KeyError:
            raise RefusedPickle(
                f"it asks for {module}.{name}, and who gets that may run any code. Only arrays, "
                "tensors, dictionaries, lists, strings and numbers are read"
            ) from None
        return made if isinstance(made, torch.dtype) else _Admitted(made)

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise RefusedPickle(f"it refers to something outside of the pickle that is no storage: {pid!r:.80}")
        if len(pid) > 5 and pid[5] is not None:
            raise RefusedPickle("it holds views of storages, which torch wrote before 0.4; save it anew")
        storage = Storage(pid[1], str(pid[2]), int(pid[4]))
        if storage.numel < 0 or self.storages.setdefault(storage.key, storage) != storage:
            raise RefusedPickle(f"the storage {storage.key} is described twice, each time differently")
        return storage
