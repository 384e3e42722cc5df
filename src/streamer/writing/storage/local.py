"""Writing where there may be no room: wait, try again, go on, and give up after a while.

A full disk, a quota and a limit on file sizes pass when somebody makes room. Everything else
(read-only, removed, not permitted) does not pass by waiting and is raised at once.
"""

import errno
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from tenacity import stop_after_delay, wait_exponential

from streamer.concurrency.retry import RetryPolicy
from streamer.errors import RunFault

T = TypeVar("T")

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""EFBIG is RLIMIT_FSIZE, which can be raised from outside."""
FIRST_SECONDS = 1.0
LONGEST_SECONDS = 30.0
"""Between two tries: the first wait, doubled each time up to the longest."""
PIECE_BYTES = 2**20
"""pyarrow writes a row group in hundreds of pieces; the file gets them together."""


class DiskFull(OSError):
    """There was no room for as long as could be waited."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Where a run is written: waits at most so many seconds for room, each time there is none."""

    seconds: float = 0.0
    patience: RetryPolicy = field(default_factory=RetryPolicy)

    def patiently(self, action: Callable[[], T], path: Path) -> T:
        """What `action` returns, tried again while there is no room for `path`.

        :raises DiskFull: there was none for too long, or the run is being stopped.
        :raises OSError: anything else that `action` raises.
        """
        begin = time.monotonic()
        try:
            return self.patience.retry(
                action,
                passing=_is_full,
                wait=wait_exponential(FIRST_SECONDS, max=LONGEST_SECONDS),
                stop=stop_after_delay(self.seconds),
                event="disk full",
                where=str(path),
                entries={"path": str(path)},
            )
        except OSError as error:
            if not _is_full(error):
                error.filename = error.filename or str(path)
                raise
            waited = f"{os.strerror(error.errno or 0)}, for {time.monotonic() - begin:.0f} s"
            raise DiskFull(error.errno, waited, str(path)) from error


IMPATIENT = Disk()


class RetryingWriter:
    """A new file at `path`, which pyarrow writes into by its `sink`.

    A write that finds no room waits and goes on behind its last byte, so Parquet never sees a half
    of it. If room does not come, that write raises and whatever follows is thrown away.

    :raises OSError: the file cannot be made.
    """

    closed = False

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._handle = disk.patiently(lambda: os.open(path, flags, 0o666), path)
        self._size = 0
        self._checksum = 0
        self._fault: OSError | None = None
        self.sink = pa.BufferedOutputStream(pa.PythonFile(self, "w"), PIECE_BYTES)

    def finish(self) -> None:
        """Have all of it on the disk, and close it.

        :raises OSError: not all of it came there.
        """
        self.sink.close()
        if self._fault is not None:
            raise self._fault
        self._patiently(self._synced())
        self._close_handle()

    def discard(self) -> None:
        """Close it as it is: what pyarrow still writes is thrown away."""
        self._fault = self._fault or OSError(errno.ECANCELED, "discarded", str(self._path))
        self._close_handle()

    def write(self, data: bytes) -> int:
        """Part of what pyarrow asks of a file."""
        rest = memoryview(data)
        while rest and self._fault is None:
            rest = rest[self._write_some(rest) :]
        self._checksum = zlib.crc32(data, self._checksum)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        """Part of what pyarrow asks of a file."""
        return self._size

    def flush(self) -> None:
        """Part of what pyarrow asks of a file; nothing is kept back here."""

    def close(self) -> None:
        """Part of what pyarrow asks of a file; it is closed by `finish` or `discard`."""

    def _close_handle(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _write_some(self, data: memoryview) -> int:
        return self._patiently(lambda: os.write(self._handle, data))

    def _patiently(self, action: Callable[[], T]) -> T:
        try:
            return self._disk.patiently(action, self._path)
        except OSError as error:
            self._fault = error
            raise

    def _synced(self) -> Callable[[], None]:
        """An action for `_patiently`. What a failed fsync did not write, the next one counts as
        written: so before the next one all is written again."""
        failed = False

        def sync() -> None:
            nonlocal failed
            if failed:
                self._write_again()
            failed = True
            os.fsync(self._handle)

        return sync

    def _write_again(self) -> None:
        done, checksum = 0, 0
        while piece := os.pread(self._handle, PIECE_BYTES, done):
            written = os.pwrite(self._handle, piece, done)
            checksum = zlib.crc32(piece[:written], checksum)
            done += written
        if (done, checksum) != (self._size, self._checksum):
            raise OSError(errno.EIO, "what was written is lost")


def write_fault(directory: Path, error: OSError) -> RunFault:
    """What to tell of an `error` while `directory` was written: one line, with what to do."""
    return RunFault(
        f"writing to {directory} failed: {error}. {_advice(error)} and resume the run: finished "
        f"parts are kept."
    )


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        return "It was removed or unmounted meanwhile: bring it back"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Make it writable again"
    if error.errno == errno.EFBIG:
        return "Raise the limit on the size of files"
    return "Make room" if _is_full(error) else "See to the disk"
