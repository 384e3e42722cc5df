"""What a device says when its memory is full, and when it is lost."""

import pytest
import torch

from streamer.device.errors import is_device_error, is_out_of_memory

FULL = [
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasLtCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnSsyevd(handle, jobz)`",
    "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "HIP error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "MPS backend out of memory (MPS allocated: 8 GB, max allowed: 9 GB)",
]
LOST = [
    "CUDA error: device-side assert triggered",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb)`",
    "cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnXsyevd( handle )`",
    "CUDA driver error: unknown error",
]


@pytest.mark.parametrize("message", FULL)
@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
def test_a_library_that_gets_no_memory_is_out_of_memory_and_the_device_is_not_lost(message, kind):
    assert is_out_of_memory(kind(message))
    assert not is_device_error(kind(message))


@pytest.mark.parametrize("message", LOST)
def test_a_lost_device_is_not_out_of_memory(message):
    assert is_device_error(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError(message))


def test_what_a_record_does_to_the_model_is_neither():
    error = RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
    assert not is_out_of_memory(error)
    assert not is_device_error(error)
