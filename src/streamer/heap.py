"""Memory that is held for a run, instead of being given back or looked through again and again."""

import contextlib
import ctypes
import gc
from collections.abc import Iterator, Mapping

import pyarrow as pa
import torch

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
NEVER = 2**31 - 1
_C = ctypes.CDLL(None)


@contextlib.contextmanager
def objects_kept() -> Iterator[None]:
    """While inside, Python's collector leaves alone the objects that are there now: libraries and
    models have a million, and all threads wait while it looks through them."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def keep_heap(device: torch.device) -> None:
    """Let the memory that one operation on a CPU frees serve the next, with glibc, which alone has
    settings for that.

    As it is, that soon goes back to the system, which then maps and clears every page of the next
    tensor anew. It does not if there is one heap for all threads, which no tensor is too large
    for and which is never trimmed. Arrow uses it, too, instead of keeping memory of its own. To be
    called before there are threads that compute.
    """
    if device.type == "cpu":
        set_heap({ARENA_MAX: 1, MMAP_THRESHOLD: NEVER, TRIM_THRESHOLD: NEVER})
        pa.set_memory_pool(pa.system_memory_pool())


def set_heap(parameters: Mapping[int, int]) -> None:
    """With mallopt, where there is one."""
    if hasattr(_C, "mallopt"):
        for parameter, value in parameters.items():
            _C.mallopt(parameter, value)


def trim_heap() -> None:
    """Give back what is free of it, this once."""
    if hasattr(_C, "malloc_trim"):
        _C.malloc_trim(0)
