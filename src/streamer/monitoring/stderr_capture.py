"""What libraries write to standard error behind Python's back: into the run's log, not through its
live display."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from streamer.monitoring.library_warnings import Log

STDERR = 2
NAME = "stderr.log"
TURN_BYTES = 2**20
"""The file begins anew when it has so many."""
LONGEST = 2000
"""Characters of a line that are told."""


class StderrCapture:
    """Takes file descriptor 2 for a while, and tells the log what is written there.

    By way of a file in the run directory. A crash leaves it behind, with the last words; a pipe
    would lose them, and hold up who writes when nobody reads.
    """

    def __init__(self, directory: Path, log: Log) -> None:
        self._path = directory / NAME
        self._log = log
        self._file = -1
        self._told = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """While inside. Where the file cannot be made, standard error stays where it is."""
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError:
            yield
            return
        before = os.dup(STDERR)
        sys.stderr.flush()
        os.dup2(self._file, STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, STDERR)
            os.close(before)

    def end(self) -> None:
        """Tell what is left, and leave no file behind. Waits for the disk."""
        self.tell(at_end=True)
        with self._lock:
            file, self._file = self._file, -1
        if file >= 0:
            os.close(file)
            with contextlib.suppress(OSError):
                self._path.unlink()

    def tell(self, at_end: bool = False) -> None:
        """Pass on the lines that have come; at the end, also one that was not finished."""
        with self._lock:
            new = self._take(at_end)
        for line in new.decode("utf-8", "replace").splitlines():
            if line.strip():
                self._log("stderr", {"message": line.strip()[:LONGEST]})

    def _take(self, at_end: bool) -> bytes:
        if self._file < 0:
            return b""
        try:
            new = os.pread(self._file, TURN_BYTES, self._told)
            whole = len(new) if at_end or len(new) == TURN_BYTES else new.rfind(b"\n") + 1
            self._told += whole
            if whole == len(new) and self._told >= TURN_BYTES:
                os.ftruncate(self._file, 0)
                self._told = 0
        except OSError:
            return b""
        return new[:whole]
