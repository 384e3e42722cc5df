"""Memory that is held for a run, instead of being given back or looked through again and again."""

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
"""Parameters of glibc's mallopt(3)."""
KEPT = {ARENA_MAX: 1, MMAP_MAX: 0, TRIM_THRESHOLD: -1}
"""One heap for all threads, of which large tensors are part, too, and which is never trimmed."""
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Devices of the drivers that PyTorch computes with on Linux."""
_LIBC = ctypes.CDLL(None)


def keep_heap(device: str) -> None:
    """Let the memory that one operation frees serve the next, if `device` will be a CPU.

    By default glibc soon returns it to the system, which then maps and clears every page of the
    next tensor anew. Nothing else can be told not to. To be called before there is a second thread,
    which would get a heap of its own; so before Arrow, which brings some, and before torch, which
    knows what `auto` is.
    """
    is_cpu = device == "cpu" or (
        device == "auto" and not any(Path(file).exists() for file in ACCELERATORS)
    )
    if is_cpu and hasattr(_LIBC, "mallopt"):
        for parameter, value in KEPT.items():
            _LIBC.mallopt(parameter, value)
        import pyarrow as pa  # noqa: PLC0415

        pa.set_memory_pool(pa.system_memory_pool())  # instead of keeping memory of its own


def trim_heap() -> None:
    """Return what is free of the C heap to the system, where glibc can."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


@contextlib.contextmanager
def objects_kept() -> Iterator[None]:
    """While inside, Python's collector leaves alone the objects that are there now: libraries and
    models have very many, and all threads wait while it looks through them."""
    if gc.get_freeze_count():  # the process has its own idea of that
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
