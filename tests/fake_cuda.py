"""A CUDA device without a GPU: tensors on it have a shape, a type and a device, but no values.

A CPU build of torch has no guard and no hooks for CUDA devices, without which it neither copies to such a tensor nor
differentiates through one. ``build_library`` compiles ones that do nothing. They must be loaded before torch is
imported, and autograd then has a thread of its own for the device, after which a process cannot fork. Tests therefore
use a process of their own, see ``modeling/no_waiting.py``.

Inside ``Watch``, tensors on the CPU are ordinary tensors with values. A number that comes back from the device is 1,
and a truth value is False.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

LIBRARY = "FAKE_CUDA_LIBRARY"
SOURCE = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace at {

struct FakeHooks : CUDAHooksInterface {
  explicit FakeHooks(CUDAHooksArgs) {}
  void init() const {}
  bool hasCUDA() const { return true; }
  bool isBuilt() const { return true; }
  bool hasPrimaryContext(DeviceIndex) const { return true; }
  int getNumGPUs() const { return 1; }
};
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, FakeHooks)

struct FakeGuard : c10::impl::NoOpDeviceGuardImpl<c10::kCUDA> {
  Device exchangeDevice(Device) const { return getDevice(); }
  Device getDevice() const { return Device(c10::kCUDA, 0); }
  c10::Stream getStream(Device) const noexcept { return c10::Stream(c10::Stream::DEFAULT, getDevice()); }
  c10::Stream exchangeStream(c10::Stream) const noexcept { return getStream(getDevice()); }
};
C10_REGISTER_GUARD_IMPL(CUDA, FakeGuard);

}  // namespace at
"""


def build_library(folder: Path) -> Path:
    """Compile the guard and the hooks; takes two seconds.

    Raises:
        RuntimeError: there is no compiler, or it failed; the message says why.
    """
    from torch.utils import cpp_extension

    source, library = folder / "fake_cuda.cpp", folder / "fake_cuda.so"
    source.write_text(SOURCE)
    torch_folder = Path(importlib.util.find_spec("torch").origin).parent
    command = [cpp_extension.get_cxx_compiler(), "-std=c++20", "-shared", "-fPIC", "-O0", "-w", str(source)]
    command += [f"-I{path}" for path in cpp_extension.include_paths()]
    command += [f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu", "-o", str(library)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except OSError as error:
        raise RuntimeError(f"no C++ compiler: {error}") from error
    if done.returncode:
        raise RuntimeError(f"the C++ compiler failed: {done.stderr[-500:]}")
    return library


if LIBRARY in os.environ and "torch" not in sys.modules:
    _lib = Path(importlib.util.find_spec("torch").origin).parent / "lib"
    ctypes.CDLL(str(_lib / "libtorch_cpu.so"), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(os.environ[LIBRARY])

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import xmodaler_ssattn

PACKAGE = f"{Path(xmodaler_ssattn.__file__).parent}{os.sep}"
HOME = str(Path(os.environ["XMODALER_HOME"]).resolve()) + os.sep if os.environ.get("XMODALER_HOME") else ""
# A value, or a size that only the device knows, goes back to the host.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "multinomial", "is_nonzero", "equal", "_unique", "_unique2",
    "unique_consecutive", "unique_dim", "bincount", "repeat_interleave.Tensor",
}  # fmt: skip
# Both arguments need one type; on a CPU some of them accept two.
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "addr", "_thnn_fused_lstm_cell"}
UPDATES = ("_fused_adam", "_foreach_add", "_foreach_addcdiv", "addcdiv")


def pretend() -> None:
    """torch's Python code would start CUDA, which this build does not have, and disables its autocast."""
    torch.cuda._lazy_init = lambda: None
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *_, **__: True


class Watch(TorchDispatchMode):
    """Runs what is on the fake device, and notes what a GPU would wait for or refuse.

    Args:
        capturing: a graph is being captured: nothing may be copied to or from the device.

    Attributes:
        waits: where and for what the host waits, in order; ``where`` is the line of our code.
        faults: what a GPU would refuse: operators with tensors of two devices or of two types.
        products: where and in which type matrices are multiplied.
    """

    def __init__(self, capturing: bool = False):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.capturing = capturing
        self.updated = False
        self.waits: list[dict] = []
        self.faults: list[dict] = []
        self.products: list[dict] = []
        self._pinned: dict[int, torch.Tensor] = {}  # by address; kept, so that no other tensor gets the address

    def on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the same shape and type on the device."""
        with self.fake:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")

    def move(self, model: torch.nn.Module) -> torch.nn.Module:
        """Put the model's parameters and buffers on the device."""
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    moved = self.on_device(parameter)
                    module._parameters[name] = torch.nn.Parameter(moved, requires_grad=parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = self.on_device(buffer)
        return model

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.__name__.removesuffix(".default")
        base = name.split(".")[0].removesuffix("_")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_device = [tensor for tensor in tensors if tensor.device.type == "cuda"]
        target = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if base == "is_pinned":
            return tensors[0].data_ptr() in self._pinned
        if base == "_pin_memory":
            pinned = tensors[0].clone()
            self._pinned[pinned.data_ptr()] = pinned
            return pinned
        if not on_device and target != "cuda":
            return function(*args, **kwargs)
        if base.startswith(UPDATES):
            self.updated = True
        if name in WAITING or base in WAITING:
            self.note(self.waits, f"{name} waits for the device")
            if base != "_local_scalar_dense":
                raise RuntimeError(f"{name} waits for the device")
            dtype = tensors[0].dtype
            return False if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if base in ("_to_copy", "copy"):
            into = args[0].device.type if base == "copy" else (target or tensors[0].device.type)
            source = tensors[-1]
            if into == "cpu":
                self.note(self.waits, f"{tuple(source.shape)} goes back to the host")
                if base == "copy":
                    return args[0].fill_(1)
                dtype = kwargs.get("dtype") or source.dtype
                return torch.full(source.shape, int(dtype != torch.bool), dtype=dtype)
            if source.device.type == "cpu" and self.capturing:
                self.note(self.faults, f"{tuple(source.shape)} is copied to the device inside a captured graph")
            elif source.device.type == "cpu" and not (
                source.data_ptr() in self._pinned and self.non_blocking(args, kwargs)
            ):
                self.note(self.waits, f"{tuple(source.shape)} is copied to the device and was not pinned")
        else:
            if any(tensor.device.type == "cpu" and tensor.dim() > 0 for tensor in tensors) and on_device:
                self.note(self.faults, f"{name} has tensors on the CPU and on the device")
            indices = args[1] if base in ("index", "index_put", "_index_put_impl", "_unsafe_index") else ()
            if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.note(self.waits, f"{name} with a mask waits for its number of True")
                raise RuntimeError("the size of the result is known only to the device")
        if base in PRODUCTS:
            kinds = sorted({str(tensor.dtype) for tensor in tensors if tensor.is_floating_point()})
            if len(kinds) > 1:
                self.note(self.faults, f"{name} has the types {', '.join(kinds)}")
            self.note(self.products, kinds[0], shapes=[tuple(tensor.shape) for tensor in tensors])
        with self.fake:
            return function(*args, **kwargs)

    @staticmethod
    def non_blocking(args, kwargs) -> bool:
        return bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2]))

    def note(self, into: list[dict], what: str, **more) -> None:
        into.append({"what": what, "where": place(), "after_update": self.updated, **more})


def place() -> str:
    """The innermost line of our package, or else of the host, as ``file:line function``."""
    frame, of_host = sys._getframe(2), ""
    while frame is not None:
        code = frame.f_code
        line = f":{frame.f_lineno} {code.co_name}"
        if code.co_filename.startswith(PACKAGE):
            return code.co_filename[len(PACKAGE) :] + line
        if HOME and code.co_filename.startswith(HOME) and not of_host:
            of_host = code.co_filename[len(HOME) :] + line
        frame = frame.f_back
    return of_host or "a backward pass of torch, or the test"
