"""Memory, in bytes: of this process and of its device. torch is imported only for a device: who
watches a run from outside has none."""

import ctypes
import resource
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import psutil

if TYPE_CHECKING:
    import torch


_LIBC = ctypes.CDLL(None)
_PROCESS = psutil.Process()
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes now and at most so far; None for a device that is the CPU or does not tell."""

    process: int
    process_peak: int
    device: int | None
    device_peak: int | None


def memory(device: "torch.device") -> Memory:
    """What is held at this moment. The peak of MPS is the last reading: it keeps none."""
    process = _PROCESS.memory_info().rss
    peak = max(process, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT)
    if device.type == "cuda":
        import torch  # noqa: PLC0415

        held = torch.cuda.memory_allocated(device)
        return Memory(process, peak, held, torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        import torch  # noqa: PLC0415

        held = torch.mps.driver_allocated_memory()
        return Memory(process, peak, held, held)
    return Memory(process, peak, None, None)


def trim_heap() -> None:
    """Return what is free of the C heap to the system, where glibc can."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


def free_memory(device: "torch.device") -> int:
    """Bytes that could still be had on `device`."""
    if device.type == "cuda":
        import torch  # noqa: PLC0415

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        import torch  # noqa: PLC0415

        most = torch.mps.recommended_max_memory()
        return max(0, most - torch.mps.driver_allocated_memory())
    return int(psutil.virtual_memory().available)


class PeakMemory:
    """The most memory in use while it is entered: of the device, or of the process on a CPU and on
    MPS, which keep no peak and are looked at every few milliseconds."""

    EVERY_SECONDS = 0.005

    def __init__(self, device: "torch.device") -> None:
        self.bytes = 0
        self._device = device
        self._left = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            import torch  # noqa: PLC0415

            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            trim_heap()  # else what was needed before would count
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            import torch  # noqa: PLC0415

            self.bytes = torch.cuda.max_memory_allocated(self._device)
        else:
            self._left.set()
            self._watcher.join()
            self._look()

    def _watch(self) -> None:
        while not self._left.wait(self.EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
        now = memory(self._device)
        self.bytes = max(self.bytes, now.process if now.device is None else now.device)
