"""The C heap of the command, where it computes on a CPU. Only glibc's has such settings."""

import ctypes
from collections.abc import Mapping

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
NEVER = 2**31 - 1
_C = ctypes.CDLL(None)


def keep_heap(device: torch.device) -> None:
    """Let the memory that one operation on a CPU frees serve the next.

    As it is, glibc soon gives it back to the system, which then maps and clears every page of the
    next tensor anew. It does not if there is one heap for all threads, which no tensor is too large
    for and which is never trimmed. To be called before there are threads that compute.
    """
    if device.type == "cpu":
        set_heap({ARENA_MAX: 1, MMAP_THRESHOLD: NEVER, TRIM_THRESHOLD: NEVER})


def set_heap(parameters: Mapping[int, int]) -> None:
    """With mallopt, where there is one."""
    if hasattr(_C, "mallopt"):
        for parameter, value in parameters.items():
            _C.mallopt(parameter, value)


def trim_heap() -> None:
    """Give back what is free of it, this once."""
    if hasattr(_C, "malloc_trim"):
        _C.malloc_trim(0)
