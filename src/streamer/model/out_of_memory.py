"""Telling that memory ran out, and letting go of what can be let go of."""

import gc

import torch

SAYINGS = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")
"""What MPS' and the CPU's allocators say: they have no error of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator of CUDA, MPS or the CPU raised `error`."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAYINGS)


def release(device: torch.device) -> None:
    """Give back what no tensor uses."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
