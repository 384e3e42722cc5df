"""A file of lines that grows: what identifies it, and its bytes as they come.

A failed read is retried: the file is opened again, and read on only if it is the same file, with
the same device, inode and first bytes.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import TypeAlias, TypeVar

from streamer.concurrency.retry import RetryPolicy
from streamer.loading.identity import hash_of
from streamer.loading.retrying import read_fault, retry_reading
from streamer.loading.sources import READ_BYTES
from streamer.records import Position

T = TypeVar("T")

SETTLED_SECONDS = 2.0
"""A file that has not grown for this long is idle; if another file has its name, it has ended."""
HEAD_BYTES = 1024
"""How many first bytes identify a file."""

State: TypeAlias = tuple[int, int, int]
"""Size, and when content and inode were last changed. While it is the same, so is the content."""


class Gone(Exception):
    """The file is not where it was, or the run was stopped while it could not be read."""


def file_id(stat: os.stat_result) -> str:
    """What identifies a file, whatever its name: device and inode."""
    return f"{stat.st_dev}:{stat.st_ino}"


def state_of(stat: os.stat_result) -> State:
    """How far a file has grown."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


class GrowingFile:
    """The file `known_as` (`file_id`) at `path`, open. `named`: its path, or that which it had.

    :raises Gone: it is not there.
    :raises RunFault: it could not be opened, though tried with `retries`.
    """

    def __init__(
        self,
        known_as: str,
        path: Path,
        named: Path,
        retries: RetryPolicy,
        on_read: Callable[[int], None],
    ) -> None:
        self.id = known_as
        self._path = path
        self._named = named
        self._retries = retries
        self._on_read = on_read
        self._file: FileIO | None = None
        self._offset = 0
        self._grown = time.monotonic()
        self._head: str | None = None
        self._stat, _, self._first = self._with_retries(functools.partial(self._look, 0))
        self.read_to: State | None = None
        """Its state when there was last nothing more to read."""
        self.is_idle = False
        """Whether it has not grown for a while."""
        self.is_over = False
        """Whether it has ended: idle, and removed or replaced."""
        self.is_cut = False
        """Whether it was truncated or rewritten."""

    @property
    def size(self) -> int:
        """As of the last look."""
        return self._stat.st_size

    @property
    def state(self) -> State:
        """As it was at the last look."""
        return state_of(self._stat)

    def begins_like(self, position: Position) -> bool:
        """Whether `position` can be one in this file."""
        return position.offset <= self.size and self.head(position.offset) == position.head

    def head(self, offset: int) -> str:
        """A hash of what it begins with, up to `offset` at most."""
        if offset < HEAD_BYTES:
            return hash_of(self._first[:offset])
        if self._head is None:
            self._head = hash_of(self._first)
        return self._head

    def pieces(self, offset: int) -> Iterator[bytes]:
        """Its bytes from `offset` on, an empty piece whenever there are no more. They end when it
        is cut or over.

        :raises Gone: it cannot be read any more.
        :raises RunFault: it failed at every try.
        """
        self._offset = offset
        if self._file is not None:
            self._file.seek(offset)
        while True:
            self._stat, piece, first = self._with_retries(functools.partial(self._look, READ_BYTES))
            if self._is_another(piece, first):
                self.is_cut, self.read_to = True, None
                return
            self._first = first
            if piece:
                self._offset += len(piece)
                self._grown = time.monotonic()
                self._on_read(len(piece))
                yield piece
                continue
            self.read_to = self.state
            self.is_idle = time.monotonic() - self._grown >= SETTLED_SECONDS
            if self.is_idle and self.is_replaced:
                self.is_over = True
                return
            yield b""

    @property
    def is_replaced(self) -> bool:
        """Whether it was removed, or another file has its name."""
        try:
            return file_id(self._named.stat()) != self.id
        except FileNotFoundError:
            return self._stat.st_nlink == 0
        except OSError:  # unknown for now
            return False

    def close(self) -> None:
        """Read no more."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # nothing of what was read depends on it
                file.close()

    def _look(self, size: int) -> tuple[os.stat_result, bytes, bytes]:
        """How it is; then at most `size` next bytes; then the first ones."""
        try:
            file = self._file or self._open()
            stat = os.fstat(file.fileno())
            piece = file.read(size)
            return stat, piece, _first_bytes(file.fileno())
        except OSError:
            self.close()
            raise

    def _open(self) -> FileIO:
        self._file = FileIO(self._path)
        if file_id(os.fstat(self._file.fileno())) != self.id:
            raise FileNotFoundError(f"{self._path} is another file now")
        self._file.seek(self._offset)
        return self._file

    def _is_another(self, piece: bytes, first: bytes) -> bool:
        return (
            (not piece and self.size < self._offset)
            or len(first) < min(self._offset + len(piece), HEAD_BYTES)
            or not first.startswith(self._first)
        )

    def _with_retries(self, action: Callable[[], T]) -> T:
        try:
            return retry_reading(self._retries, action, _may_pass, str(self._named), self._offset)
        except OSError as error:
            if self._retries.stopped.is_set() or not _may_pass(error):
                raise Gone from error
            raise read_fault(str(self._named), self._offset, error) from error


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)


def _first_bytes(handle: int) -> bytes:
    first = b""
    while len(first) < HEAD_BYTES and (more := os.pread(handle, HEAD_BYTES, len(first))):
        first += more
    return first[:HEAD_BYTES]
