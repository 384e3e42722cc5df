"""A directory of a local or mounted file system.

A new file has a temporary name beside its own. Finishing is fsync; publishing is a
rename and an fsync of the directory. Locks are the kernel's, so a killed process leaves none.
"""

import contextlib
import errno
import os
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import filelock
import pyarrow as pa

from streamer.writing.storage.base import UNPUBLISHED, Lock, Locked, NewFile, NoLocks, Storage
from streamer.writing.storage.room import NO_WAIT, WaitForRoom

T = TypeVar("T")

PIECE_BYTES = 2**20
"""pyarrow writes a row group in hundreds of pieces; the file gets them together."""
NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})
"""Errors of file systems without locks, or whose lock server is away."""


class LocalStorage(Storage):
    """The run directory `root`, which is there; folders in it are made when they are needed."""

    def __init__(self, root: Path, room: WaitForRoom = NO_WAIT) -> None:
        self.location = str(root)
        self._root = root
        self._room = room
        self._made: set[Path] = set()

    def create(self, name: str) -> NewFile:
        """Part of `Storage`."""
        self._make_folder(name)
        return RetryingWriter(self._root, name, self._room)

    def publish(self, file: NewFile) -> None:
        """Part of `Storage`."""
        final = self._root / file.name
        temporary = unpublished(final)
        self._room.retry(lambda: temporary.replace(final), final)
        self.sync_folder(final.parent)

    def sync_folder(self, folder: Path) -> None:
        """Return when the names in `folder` survive a power cut."""
        self._room.retry(lambda: fsync(folder), folder)

    def list(self, folder: str = "") -> Sequence[str]:
        """Part of `Storage`."""
        return self._entries(folder, lambda entry: entry.is_file())

    def folders(self, folder: str = "") -> Sequence[str]:
        """Part of `Storage`."""
        return self._entries(folder, lambda entry: entry.is_dir())

    def read(self, name: str) -> pa.NativeFile:
        """Part of `Storage`."""
        path = self._root / name
        try:
            return pa.OSFile(os.fsencode(path), "rb")
        except OSError as error:  # Arrow says much about it, and of a folder has no number
            number = error.errno or (errno.EISDIR if path.is_dir() else errno.EIO)
            raise OSError(number, os.strerror(number), str(path)) from None

    def remove(self, name: str) -> None:
        """Part of `Storage`."""
        (self._root / name).unlink()

    def post(self, name: str, content: bytes) -> None:
        """Part of `Storage`. On a full disk, which is when people look, the file is overwritten in
        place: a reader that sees half of it reads again."""
        final = self._root / name
        temporary = unpublished(final)
        try:
            temporary.write_bytes(content)
            temporary.replace(final)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            with final.open("r+b", buffering=0) as file:
                file.write(content)
                file.truncate(len(content))

    def lock(self, name: str) -> Lock:
        """Part of `Storage`."""
        self._make_folder(name)
        lock = filelock.FileLock(
            self._root / name, blocking=False, thread_local=False, fallback_to_soft=False
        )
        try:
            lock.acquire()
        except filelock.Timeout:
            raise Locked(self.location) from None
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise NoLocks(error.errno, error.strerror, str(self._root / name)) from error
            raise
        return lock

    def local_folder(self, folder: str = "") -> Path:
        """Part of `Storage`."""
        return self._root / folder

    def without_waiting(self) -> "LocalStorage":
        """Part of `Storage`."""
        return LocalStorage(self._root)

    def _entries(self, folder: str, which: Callable[[os.DirEntry[str]], bool]) -> Sequence[str]:
        try:
            with os.scandir(self._root / folder) as entries:
                found = [entry.name for entry in entries if which(entry)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(f"{folder}/{name}" if folder else name for name in found)

    def _make_folder(self, name: str) -> None:
        """Make the folders of `name` below the root. Each is made once: one that vanishes later
        was removed by somebody, and the run must not go on as if nothing were lost."""
        for folder in reversed(PurePosixPath(name).parents[:-1]):
            path = self._root / folder
            if path not in self._made:
                self._room.retry(partial(path.mkdir, exist_ok=True), path)
                self.sync_folder(path.parent)
                self._made.add(path)


class RetryingWriter(NewFile):
    """A new file under a temporary name in `root`, which pyarrow writes into by its `sink`.

    A write that finds no room waits and goes on behind its last byte, so Parquet never sees a half
    of it. If room does not come, that write raises and whatever follows is thrown away.

    :raises OSError: the file cannot be made.
    """

    closed = False

    def __init__(self, root: Path, name: str, room: WaitForRoom) -> None:
        self.name = name
        self._path = path = unpublished(root / name)
        self._room = room
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._handle = room.retry(lambda: os.open(path, flags, 0o666), path)
        self._size = 0
        self._checksum = 0
        self._fault: OSError | None = None
        self.sink = pa.BufferedOutputStream(pa.PythonFile(self, "w"), PIECE_BYTES)

    def finish(self) -> None:
        """Part of `NewFile`."""
        self.sink.close()
        if self._fault is not None:
            raise self._fault
        self._retry(self._synced())
        self._close_handle()

    def discard(self) -> None:
        """Part of `NewFile`."""
        self._fault = self._fault or OSError(errno.ECANCELED, "discarded", str(self._path))
        self._close_handle()
        self._path.unlink(missing_ok=True)

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
        return self._retry(lambda: os.write(self._handle, data))

    def _retry(self, action: Callable[[], T]) -> T:
        try:
            return self._room.retry(action, self._path)
        except OSError as error:
            self._fault = error
            raise

    def _synced(self) -> Callable[[], None]:
        """An action for `_retry`. What a failed fsync did not write, the next one counts as
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


def unpublished(path: Path) -> Path:
    """The temporary name of the file that will be `path`."""
    return path.with_name(path.name + UNPUBLISHED)


def fsync(path: Path) -> None:
    """Return when the file or directory `path` is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
