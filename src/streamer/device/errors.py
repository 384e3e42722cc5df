"""Classifies the errors of devices, and releases unused device memory."""

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
"""Messages of MPS' and the CPU's allocators and of CUDA's libraries, which have no error class of
their own. Creating a library handle takes memory: without it, cuBLAS reports NOT_INITIALIZED and
cuSOLVER INTERNAL_ERROR. A lost device also fails at the next attempt, with a message of its own."""
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
"""Messages of a failing device, for which torch raises a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator of CUDA, its libraries, MPS or the CPU raised `error`."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def is_device_error(error: BaseException) -> bool:
    """Whether the device itself failed, rather than what was run on it, and not for lack of memory.

    CUDA's errors are sticky: every later call of the process to the device fails as well.
    """
    if is_out_of_memory(error):
        return False
    known = getattr(torch, "AcceleratorError", None)  # since torch 2.8
    if known is not None and isinstance(error, known):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in LOST)


def release(device: torch.device) -> None:
    """Release memory that no tensor uses."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
