"""An unpickler that runs no code: it returns plain values, arrays and descriptions of tensors, or refuses the file.

A pickle may call anything that Python can import. Here every allowed name has a replacement, which only records the
request: an array of a type and shape, or a tensor at a position in a storage. Any other name is refused before it is
looked up.
"""

from __future__ import annotations

import collections
import functools
import math
import pickle
import pickletools
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
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
NUMPY_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", "c8", "c16"}


class RefusedPickle(pickle.UnpicklingError):
    """The file is intact but asks for something that is not allowed; any other error means damage."""


class Storage(NamedTuple):
    """``numel`` numbers that are in the file but outside of the pickle, under ``key``."""

    dtype: torch.dtype
    key: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


class StoredTensor(NamedTuple):
    """A tensor that is not read yet. Its position in the storage has been checked."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class StoredArray:
    """A numpy array or number. ``data`` is set when the pickle has set its state."""

    # The array is wrapped, because a pickle could call methods of an object that it gets.
    def __init__(self, *ignored: Any, data: np.ndarray | None = None) -> None:
        self.data = data

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        self.data = _from_bytes(raw, dtype, shape, fortran)


class StoredDict(dict):
    """A dictionary of another type. torch sets the versions of a model's modules as its ``_metadata``."""

    def __init__(self, make: type[dict], *items: Any) -> None:
        super().__init__(*items)
        self.make, self.metadata = make, None

    def __setstate__(self, state: Any) -> None:
        self.metadata = state.get("_metadata") if isinstance(state, dict) else None


class _NumpyType:
    """A numpy type; only plain numbers are allowed."""

    def __init__(self, name: str, *ignored: Any) -> None:
        self.order = name[0] if name[:1] in ("<", ">", "|", "=") else "="
        self.name = name.lstrip("<>|=")
        if self.name not in NUMPY_TYPES:
            raise RefusedPickle(f"it contains numpy data of type {name!r}, not plain numbers")

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise RefusedPickle("a numpy type has an unknown byte order")
        self.order = state[1]


class _Admitted:
    """The replacement of a global name in a pickle: it can be called, but its attributes cannot be set."""

    __slots__ = ("_make",)
    _make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise RefusedPickle(f"it tries to set {name!r} of a function")


def _from_bytes(raw: Any, dtype: Any, shape: Any, fortran: bool = False) -> np.ndarray:
    """An array from its raw bytes, always a copy; their number must fit the shape."""
    if not isinstance(dtype, _NumpyType) or not isinstance(raw, (bytes, bytearray, str)):
        raise RefusedPickle("it contains a numpy array of objects, not of numbers")
    if isinstance(raw, str):  # pickled by Python 2
        raw = raw.encode("latin1")
    shape = tuple(shape)
    numpy_type = np.dtype(dtype.order.replace("|", "=") + dtype.name)
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise RefusedPickle("it describes an impossible array")
    if math.prod(shape) * numpy_type.itemsize != len(raw):
        raise RefusedPickle(f"an array of shape {shape} and type {dtype.name} has {len(raw):,} bytes")
    array = np.frombuffer(raw, dtype=numpy_type).reshape(shape, order="F" if fortran else "C")
    return array.astype(numpy_type.newbyteorder("="), order="C")


def _scalar(dtype: Any, raw: Any) -> StoredArray:
    return StoredArray(data=_from_bytes(raw, dtype, ())[()])


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: str = "C") -> StoredArray:
    return StoredArray(data=_from_bytes(raw, dtype, shape, order == "F"))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Replaces ``codecs.encode``, with which Python 3 pickles bytes for Python 2."""
    if encoding != "latin1":
        raise RefusedPickle("it asks for an encoding other than latin1")
    return text.encode("latin1")


def _typed_tensor(
    storage: Any, offset: int, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> StoredTensor:
    size, stride = tuple(size), tuple(stride)
    if (
        not isinstance(storage, Storage)
        or not isinstance(dtype, torch.dtype)
        or len(size) != len(stride)
        or not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride))
    ):
        raise RefusedPickle("it describes an impossible tensor")
    if metadata:
        raise RefusedPickle("it contains a conjugated or negated view of a tensor")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if 0 not in size and (last + 1) * dtype.itemsize > storage.nbytes:
        raise RefusedPickle(f"a tensor of shape {size} needs more than the {storage.numel:,} numbers stored for it")
    return StoredTensor(storage, dtype, offset, size, stride)


def _tensor(
    storage: Any, offset: int, size: Any, stride: Any, grad: Any = None, hooks: Any = None, metadata: Any = None
) -> StoredTensor:
    return _typed_tensor(storage, offset, size, stride, grad, hooks, getattr(storage, "dtype", None), metadata)


def _first(data: Any, *ignored: Any) -> Any:
    return data


ADMITTED: dict[tuple[str, str], Callable[..., Any] | torch.dtype] = {
    ("collections", "OrderedDict"): functools.partial(StoredDict, collections.OrderedDict),
    ("collections", "Counter"): functools.partial(StoredDict, collections.Counter),
    **{(builtins, t.__name__): t for builtins in ("__builtin__", "builtins") for t in (set, complex)},
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): StoredArray,
    ("numpy", "dtype"): _NumpyType,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): StoredArray for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch", "Size"): tuple,
    ("torch", "device"): torch.device,
    ("torch.storage", "UntypedStorage"): torch.uint8,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
    **{("torch", str(t).removeprefix("torch.")): t for t in vars(torch).values() if isinstance(t, torch.dtype)},
}


def _check_lengths(file: BinaryIO) -> None:
    """Read a pickle without executing it, and check its lengths.

    Python's own unpickler reserves any length that a damaged pickle states, and memory up to the highest number in its
    memo: a few bytes could use all memory of the machine.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > count:
            raise RefusedPickle(f"it stores its object number {argument:,} after only {count:,} objects")


class PlainUnpickler(pickle.Unpickler):
    """``load()`` returns plain values, ``StoredArray``, ``StoredTensor`` and ``StoredDict``.

    Args:
        file: seekable, at the beginning of a pickle. After ``load`` it is at the end of the pickle.

    Attributes:
        storages: every storage that the pickle refers to, by key.

    Raises:
        RefusedPickle: the file is intact but asks for something else; any other error: it is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        # Files of Python 2 contain arrays as strings; latin1 keeps their bytes.
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
                f"it asks for {f'{module}.{name}':.100}, which could run any code. Only arrays, tensors, "
                "dictionaries, lists, strings and numbers are read"
            ) from None
        return made if isinstance(made, torch.dtype) else _Admitted(made)

    def persistent_load(self, pid: Any) -> Storage:
        kinds = (str, torch.dtype, str, str, int)
        if not isinstance(pid, tuple) or len(pid) < 5 or not all(map(isinstance, pid, kinds)) or pid[0] != "storage":
            raise RefusedPickle("it refers to something outside of the pickle that is not a storage")
        if len(pid) > 5 and pid[5] is not None:
            raise RefusedPickle("it contains views of storages, which torch wrote before 0.4; save it again")
        storage = Storage(pid[1], pid[2], pid[4])
        if storage.numel < 0 or self.storages.setdefault(storage.key, storage) != storage:
            raise RefusedPickle(f"the storage {storage.key} is described differently in two places")
        return storage
