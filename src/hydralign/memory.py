"""How much memory a process takes, has taken at most, and could take."""

import gc
import re
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from hydralign import allocator

CLEAR_PEAK = "5"
"""What Linux wants to be told: see proc(5), clear_refs."""


def peak_memory_gb() -> float:
    """Return the peak so far in GB: reserved on the accelerator, or resident without one."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved() / 1e9
    return _peak_resident_bytes() / 1e9


def forget_peak() -> None:
    """Begin anew with the peak, where the system can (Linux and CUDA)."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        with suppress(OSError):  # some containers hide it
            Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)


def let_go() -> None:
    """Give back what is no longer used, such as the networks of a stage that is over."""
    gc.collect()
    allocator.return_small_pieces()
    torch.cuda.empty_cache()


def resident_bytes() -> int:
    """Return what the process has in main memory now."""
    return psutil.Process().memory_info().rss


def free_bytes(*, on_gpu: bool) -> int:
    """Return what this process could still take.

    Args:
        on_gpu: of the card, else of main memory.
    """
    if on_gpu and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def _peak_resident_bytes() -> int:
    if sys.platform == "linux":  # getrusage would not forget
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
