"""Telling what a device means by its errors, and letting go of what can be let go of."""

import gc

import torch

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "_ALLOC_FAILED",  # CUBLAS_STATUS_…, CUSOLVER_STATUS_…, CUDNN_STATUS_…, HIPBLAS_STATUS_…
    "_ALLOCATION_FAILED",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_…
    "when calling `cublasCreate(handle)`",
    "when calling `cublasLtCreate(handle)`",
    "when calling `cusolverDnCreate(handle)`",
)
"""What MPS' and the CPU's allocators and CUDA's libraries say: they have no error of their own.
Making a handle of a library takes memory. Where that is short, cuBLAS says NOT_INITIALIZED and
cuSOLVER INTERNAL_ERROR. A lost device says so at the next attempt, too, in its own words."""
LOST = (
    "CUDA error",
    "CUDA driver error",
    "cuDNN error",
    "cusolver error",
    "HIP error",
    "NCCL error",
    "MPS error",
    "command buffer exited",
)
"""What is said of a device that fails, where torch raises a plain RuntimeError for it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator of CUDA, its libraries, MPS or the CPU raised `error`."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def is_device_error(error: BaseException) -> bool:
    """Whether `error` is the device's, not of what was run on it, nor want of memory.

    CUDA's errors are sticky: whatever the process asks of the device next fails as well.
    """
    if is_out_of_memory(error):
        return False
    known = getattr(torch, "AcceleratorError", None)  # since torch 2.8
    if known is not None and isinstance(error, known):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in LOST)


def release(device: torch.device) -> None:
    """Give back what no tensor uses."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
