"""Memory, in bytes: of this process and of its device. torch is imported only for a device: who
watches a run from outside has none."""

import contextlib
import ctypes
import resource
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from streamer.device.cgroup import free_in_groups

if TYPE_CHECKING:
    import torch


_LIBC = ctypes.CDLL(None)
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
_CLEARED = {"process": 0}
"""The peak of the process before its counter was cleared, which is the process' own as this is."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes now and at most so far; None for a device that is the CPU or does not tell."""

    process: int
    process_peak: int
    device: int | None
    device_peak: int | None


def memory(device: "torch.device") -> Memory:
    """What is held at this moment. The peak of MPS is the last reading: it keeps none."""
    process = _this_process().memory_info().rss
    peak = max(process, _process_peak(), _CLEARED["process"])
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


def clear_peak(device: "torch.device") -> bool:
    """Have the peak of `device` begin anew (on a CPU, of the process); whether that can be done.
    `memory` goes on to tell the highest of the process; other programs see only what comes."""
    if device.type == "cuda":
        import torch  # noqa: PLC0415

        torch.cuda.reset_peak_memory_stats(device)
        return True
    if device.type == "cpu":
        highest = max(_CLEARED["process"], _process_peak())
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", "ascii")
            _CLEARED["process"] = highest
            return True
    return False


def free_memory(device: "torch.device") -> int:
    """Bytes that are still free on `device`; on a CPU, by this process within the limits of its
    control groups and of its address space."""
    if device.type == "cuda":
        import torch  # noqa: PLC0415

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        import torch  # noqa: PLC0415

        most = torch.mps.recommended_max_memory()
        return max(0, most - torch.mps.driver_allocated_memory())
    in_machine = int(psutil.virtual_memory().available)
    in_groups = free_in_groups()
    limits = in_machine if in_groups is None else min(in_machine, in_groups)
    return min(limits, _free_address_space())


def _this_process() -> psutil.Process:
    """Made anew each time: one made before a fork would be the parent."""
    return psutil.Process()


def _process_peak() -> int:
    """On Linux not `ru_maxrss`: that counts what the process was forked from, too."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text("ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def _free_address_space() -> int:
    """What `ulimit -v` leaves."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(0, limit - int(_this_process().memory_info().vms))


@dataclass(frozen=True, slots=True)
class Headroom:
    """Memory as it is between two batches, in bytes."""

    needed: int
    """What the last batch needed at its peak, or more."""
    is_new_peak: bool
    """Whether it needed just that: no batch before it has raised the peak as high."""
    free: int
    """What a batch could have."""


class BatchMemory:
    """What batches need, beyond what is always there. Made when all is loaded, before the first."""

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        trim_heap()  # else batches could use what loading has freed, and seem to need nothing
        is_cleared = clear_peak(device)  # else loading's own peak would hide theirs
        now = memory(device)
        self._before = now.process if now.device is None else now.device
        """Held before the batch that is to come."""
        if now.device is None and is_cleared:  # pages of libraries may have left since
            self._before = max(self._before, _process_peak())
        self._peak = self._before

    def look(self) -> Headroom:
        """After a batch."""
        now, free = memory(self._device), free_memory(self._device)
        if now.device is None or now.device_peak is None:
            peak, before = max(now.process, _process_peak()), self._before
            self._before = now.process  # it grows by queues and windows, which are no batch's
        else:  # nothing but batches is new there; some may be in flight
            peak, before = now.device_peak, self._before
            free += now.device - before
        is_new, self._peak = peak > self._peak, max(peak, self._peak)
        return Headroom(max(0, self._peak - before), is_new, free)


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
            clear_peak(self._device)
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
