"""The raw bytes of a source; after an error, reading resumes where it stopped.

Network file systems fail now and then, each with its own errors. So any failed read is retried: the
source is opened again, at the byte that would have come next.
"""

import contextlib
import os
import stat
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from tenacity import stop_after_attempt, wait_exponential

from streamer.concurrency.retry import RetryPolicy, in_a_line
from streamer.errors import RunFault

T = TypeVar("T")

RETRIES = 5
FIRST_SECONDS = 1.0
"""Before the first retry; each later wait is twice as long: 1, 2, 4, 8, 16."""
PROOF_BYTES = 4096
"""A source that is opened again must have the same bytes before the offset where reading
resumes."""
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""When a source is first opened, these are not retried; in the middle of one they are: its file
system may come back."""


RESUME = "resume the run: finished parts are kept."


def retry_reading(
    retries: RetryPolicy,
    action: Callable[[], T],
    passing: Callable[[BaseException], bool],
    name: str,
    offset: int,
) -> T:
    """What `action`, which reads `name` at `offset`, returns. It is retried after errors that are
    `passing`. Raises what the last try raised."""
    return retries.retry(
        action,
        passing=passing,
        wait=wait_exponential(FIRST_SECONDS),
        stop=stop_after_attempt(1 + RETRIES),
        event="read retry",
        where=f"{name}, byte {offset}",
        entries={"source": name, "offset": offset},
    )


def read_fault(name: str, offset: int, error: Exception) -> RunFault:
    """The fault that ends a run when reading `name` failed at every try."""
    return RunFault(
        f"reading {name} failed at byte {offset}: {in_a_line(error)}. When it can be read, {RESUME}"
    )


class _Changed(Exception):
    """The source is not the one that was opened first."""


class RetryingFile:
    """The file that `opened` opens, from `offset` on. A pipe or standard input (`once`) is not
    retried."""

    def __init__(
        self, name: str, opened: Callable[[], BinaryIO], retries: RetryPolicy, once: bool = False
    ) -> None:
        self.offset = 0
        """Offset of the next byte."""
        self.waits = False
        """Whether a read may wait for a writer: a pipe, a socket, a terminal."""
        self._name = name
        self._opened = opened
        self._retries = retries
        self._once = once
        self._file: BinaryIO | None = None
        self._begun = False
        self._proof = b""

    @property
    def is_seekable(self) -> bool:
        """Whether it can be read from anywhere."""
        return self._file is not None and not self.waits and self._file.seekable()

    def seek(self, offset: int) -> None:
        """Continue at `offset`."""
        self._close()
        self.offset, self._proof = offset, b""

    def read(self, size: int) -> bytes | None:
        """At most `size` next bytes; b"" at the end; None if it failed while the run was stopped.

        :raises RunFault: the source is gone or another one, or failed at every try.
        """
        return self._with_retries(lambda: self._read(size))

    def fileno(self) -> int:
        """For `select`."""
        if self._file is None:
            raise ValueError(f"{self._name} is not open")
        return self._file.fileno()

    def __enter__(self) -> Self:
        self._with_retries(self._open)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _with_retries(self, action: Callable[[], T]) -> T | None:
        try:
            return retry_reading(self._retries, action, self._may_pass, self._name, self.offset)
        except Exception as error:
            if self._retries.stopped.is_set() and self._may_pass(error):
                return None
            raise self._fault(error) from error

    def _read(self, size: int) -> bytes:
        try:
            piece = (self._file or self._open()).read(size)
        except Exception:
            self._close()
            raise
        if piece:
            self.offset += len(piece)
            self._proof = piece[-PROOF_BYTES:]
        return piece

    def _open(self) -> BinaryIO:
        with contextlib.ExitStack() as on_error:
            file = on_error.enter_context(self._opened())
            self.waits = _may_wait(file)
            if self.offset:
                file.seek(self.offset - len(self._proof))
                if _read_fully(file, len(self._proof)) != self._proof:
                    raise _Changed("it is shorter or has other bytes than before")
            on_error.pop_all()
        self._file, self._begun = file, True
        return file

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):  # what was read does not depend on it
                file.close()

    def _may_pass(self, error: BaseException) -> bool:
        lasting: tuple[type[Exception], ...] = (_Changed,) if self._begun else LASTING
        repeatable = not (self._once or self.waits)
        return repeatable and isinstance(error, Exception) and not isinstance(error, lasting)

    def _fault(self, error: Exception) -> RunFault:
        if isinstance(error, FileNotFoundError):
            return RunFault(
                f"{self._name} is gone: it was there when the run began. Bring it back and {RESUME}"
            )
        if isinstance(error, _Changed):
            return RunFault(
                f"{self._name} changed while it was read, before byte {self.offset}: {error}. "
                f"Bring back what it was and {RESUME}"
            )
        return read_fault(self._name, self.offset, error)


def _read_fully(file: BinaryIO, size: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < size and (piece := file.read(size - len(pieces))):
        pieces += piece
    return bytes(pieces)


def _may_wait(file: BinaryIO) -> bool:
    try:
        mode = os.fstat(file.fileno()).st_mode
    except (OSError, AttributeError):  # not a file of this machine
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)
