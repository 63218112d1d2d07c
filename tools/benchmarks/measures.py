"""The measurements of the benchmarks: the machine's peaks, a step's arithmetic and memory traffic, medians and ratios.

A step's floating-point operations are those of its matrix products, counted as they are dispatched, also in custom
backward passes. Its traffic is the bytes that its operators would read and write without any cache: an upper bound of
the real traffic, so a share above 100 % of the copy rate means that caches were effective.
"""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
# Operators that read as much as they return, not the whole table.
_GATHERS = {"index", "index_select", "embedding", "gather"}
# Operators that allocate memory without using it.
_UNTOUCHED = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}


# --- the machine --------------------------------------------------------------------------------------------
def machine(threads: int) -> dict:
    """Name, product peaks and copy rate of the machine, to compare the numbers of two machines."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    facts = {"torch": torch.__version__, "device": device, "threads": threads, "load": os.getloadavg()[0]}
    facts["name"] = torch.cuda.get_device_name() if device == "cuda" else _cpu_name()
    size = 8192 if device == "cuda" else 2048
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.randn(size, size, device=device).to(dtype)
        facts[f"gflops_{name}"] = 2 * size**3 / _best_seconds(lambda a=a: a @ a, device) / 1e9
    source = torch.ones(2**28 if device == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    facts["gigabytes_a_second"] = 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), device) / 1e9
    print(
        f"{facts['name']}, {threads} threads, torch {facts['torch']}, load {facts['load']:.1f}; product peak "
        f"{facts['gflops_float32']:.0f} GFLOP/s float32, {facts['gflops_bfloat16']:.0f} bfloat16; copy "
        f"{facts['gigabytes_a_second']:.0f} GB/s"
    )
    return facts


def _best_seconds(work: Callable[[], object], device: str) -> float:
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# --- a step -------------------------------------------------------------------------------------------------
def work_of(step: Callable[[], object]) -> dict:
    """Floating-point operations of ``step``'s products and bytes that its operators read and write."""
    # Products that torch's counter does not count.
    more = {
        aten.mv: lambda matrix, vector, *_, **__: 2 * matrix[0] * matrix[1],
        aten.addmv: lambda base, matrix, vector, *_, **__: 2 * matrix[0] * matrix[1],
        aten.addmm_: lambda base, one, other, *_, **__: 2 * one[0] * one[1] * other[1],
    }
    with FlopCounterMode(display=False, custom_mapping=more) as flop, Traffic() as traffic:
        step()
    return {"gflop": flop.get_total_flops() / 1e9, "gigabytes": traffic.bytes / 1e9}


class Traffic(TorchDispatchMode):
    """Adds up the bytes that operators read and write, as if there were no cache."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = function.__name__.split(".")[0]
        if function.is_view or name in _UNTOUCHED:
            return result
        values = list(zip(function._schema.arguments, args, strict=False))
        values += [(arg, kwargs[arg.name]) for arg in function._schema.arguments if arg.name in kwargs]
        results = result if isinstance(result, (tuple, list)) else (result,)
        returns = zip(results, function._schema.returns, strict=False)
        written = sum(_size(made) for made, info in returns if info.alias_info is None)
        for argument, value in values:
            changes = argument.alias_info is not None and argument.alias_info.is_write
            written += _size(value) if changes else 0
            if not argument.is_out and name not in _GATHERS:
                self.bytes += _size(value)
        self.bytes += written * (2 if name in _GATHERS else 1)
        return result


def _size(value) -> int:
    """Bytes of all tensors in ``value``; only the storage of an expanded tensor is counted."""
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    return sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in tensors)


def kept_bytes(model: torch.nn.Module, forward: Callable[[], object], step: Callable[[], object]) -> int:
    """Bytes alive between forward and backward without weights, gradients and optimiser state."""
    if torch.cuda.is_available():
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    ours = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = forward()  # kept during the count, so that no address is used twice
    total = sum(seen.values())
    del kept
    return total


def peak_mib() -> float:
    """The peak memory of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- statistics ---------------------------------------------------------------------------------------------
def table(times: dict[str, list[float]], unit: str) -> dict:
    """Print and return medians; ratios against the first name."""
    first = statistics.median(next(iter(times.values())))
    rows = {}
    for name, values in times.items():
        median = statistics.median(values)
        rows[name] = {"median": median, "min": min(values), "max": max(values), "ratio": first / median}
        spread = f"(min {min(values):.3f}, max {max(values):.3f})"
        print(f"  {name:38s} {median:9.3f} {unit}  {spread}  {first / median:5.2f} x")
    return rows


def rates(name: str, seconds: float, images: int, work: dict, peak: float, facts: dict, kind: str) -> dict:
    """Print and return the shares of the machine's peaks of a step of ``seconds``; ``kind``: float32 or bfloat16."""
    row = {
        "steps_a_second": 1 / seconds,
        "images_a_second": images / seconds,
        **work,
        "share_of_product_peak": work["gflop"] / seconds / facts[f"gflops_{kind}"],
        "share_of_copy_rate": work["gigabytes"] / seconds / facts["gigabytes_a_second"],
        "peak_mib": peak,
    }
    print(
        f"  {name:38s} {row['steps_a_second']:7.2f} steps/s  {row['images_a_second']:8.1f} images/s  "
        f"{work['gflop']:6.1f} GFLOP = {row['share_of_product_peak']:4.0%} of the {kind} peak  "
        f"{work['gigabytes']:5.1f} GB = {row['share_of_copy_rate']:4.0%} of the copy rate  peak {peak:6.0f} MiB"
    )
    return row


def paired_ratio(times: dict[str, list[float]]) -> dict:
    """Second over first of two contestants: the median of the pairs and its 95 % interval (bootstrap of the pairs)."""
    first, second = times.values()
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    low, high = medians[49], medians[1949]
    middle = statistics.median(ratios)
    print(f"  ratio, median of {len(ratios)} pairs: {middle:.3f} (95 % interval {low:.3f} to {high:.3f})")
    return {"median": middle, "low": low, "high": high}
