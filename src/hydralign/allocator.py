"""How main memory that is no longer needed is kept, by the C library and by torch's kernels."""

import ctypes
import os
import platform
import sys
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Their numbers in malloc.h of glibc."""

LARGE = 2**20
"""Bytes from which on a block is given back, if it is."""

KERNELS = "64"
"""Products of one size whose kernels torch keeps ready. Each holds some 0.6 MB and each length of a
batch brings new ones, so the usual 1024 grow to 620 MB; with 64 a PPO step took as long."""

FOR_TORCH = {
    "THP_MEM_ALLOC_ENABLE": "1",  # pages of 2 MB
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": KERNELS,
    "LRU_CACHE_CAPACITY": KERNELS,
}
"""What torch reads from the environment when it is imported: for main memory."""

FOR_CUDA = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""What torch's allocator on a GPU reads. With segments that grow, DPO on a 7B model took 6.3 GB
instead of 7.4: batches of other lengths ask for other sizes, and pieces of segments lie idle."""

KEPT = 32 * 2**20
"""Bytes up to which the C library can keep freed blocks: it takes no higher threshold."""


def broken_below(*, returned: bool) -> int:
    """Return the bytes of a block below which about as much again is lost when blocks are freed.

    torch asks for aligned blocks, and glibc 2.36 gives a freed one to no request of the same size:
    200 blocks of 828 KiB (162 MiB), made in turns with others that were freed, took 323 MiB where
    unaligned ones took 163.

    Args:
        returned: whether `return_freed_memory` was called.
    """
    return (LARGE if returned else KEPT) if platform.libc_ver()[0] == "glibc" else 0


def set_up(*, returned: bool) -> None:
    """Tell torch and the C library how to keep memory; to be called before torch is imported.

    Args:
        returned: whether freed blocks of main memory go back at once.
    """
    let_segments_grow()
    keep_few_kernels()
    (return_freed_memory if returned else keep_freed_memory)()


def keep_few_kernels() -> None:
    """Let torch keep few kernels, and take large pages; what the user has said of it comes first.

    To be called before torch is imported.
    """
    for name, value in FOR_TORCH.items():
        os.environ.setdefault(name, value)


def keep_freed_memory() -> None:
    """Let blocks up to `KEPT` stay when they are freed, for the next that is as large.

    By itself the C library gives back what is free at the end of its heap, and part of each pass
    comes as new pages: 1,800 page faults in a pass of a 135M model, 310 without. To be called
    before torch is imported.
    """
    _tell(M_MMAP_THRESHOLD, KEPT)
    _tell(M_TRIM_THRESHOLD, -1)  # never


def return_freed_memory() -> None:
    """Let large blocks go back to the system when they are freed, instead of lying about in pieces.

    Each block then comes as new pages, which the system clears: with activations above the limit a
    step of PPO on a 135M model took 14 % less memory at its peak and two thirds more time. To be
    called before torch is imported.
    """
    _tell(M_MMAP_THRESHOLD, LARGE)


def _tell(parameter: int, value: int) -> None:
    """Tell the C library; where it is not glibc, nothing happens."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(parameter, value)


def let_segments_grow() -> None:
    """Let a GPU's memory be taken in segments that grow; what the user has said of it comes first.

    To be called before torch is imported. Elsewhere than on Linux torch has no such segments.
    """
    if sys.platform == "linux":
        for name, value in FOR_CUDA.items():
            os.environ.setdefault(name, value)


def return_small_pieces() -> None:
    """Give back what is free between smaller blocks; takes some 30 ms for each GB.

    Batches that shrink ask for ever other sizes, and the pieces that they leave add up.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
