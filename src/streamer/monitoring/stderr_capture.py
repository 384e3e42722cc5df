"""Sends what native libraries write to standard error to the run's log instead of over its
display."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from streamer.concurrency.events import Log

STDERR = 2
NAME = "stderr.log"
TURN_BYTES = 2**20
"""The file is emptied when it reaches this size."""
LONGEST = 2000
"""Characters of a line that are logged."""


class StderrCapture:
    """Redirects file descriptor 2 to a file in the run directory, and logs what is written there.

    A file, not a pipe: a crash leaves the file, with the library's last message, where a pipe would
    lose it; and a full pipe would block the library.
    """

    def __init__(self, directory: Path, log: Log) -> None:
        self._path = directory / NAME
        self._log = log
        self._file = -1
        self._logged = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def redirected(self) -> Iterator[None]:
        """Redirect while inside. If the file cannot be created, standard error stays as it is."""
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
        """Log what is left, and remove the file. Waits for the disk."""
        self.log_new(at_end=True)
        with self._lock:
            file, self._file = self._file, -1
        if file >= 0:
            os.close(file)
            with contextlib.suppress(OSError):
                self._path.unlink()

    def log_new(self, at_end: bool = False) -> None:
        """Log the lines written since the last call; at the end, also an incomplete one."""
        with self._lock:
            new = self._take(at_end)
        for line in new.decode("utf-8", "replace").splitlines():
            if line.strip():
                self._log("stderr", {"message": line.strip()[:LONGEST]})

    def _take(self, at_end: bool) -> bytes:
        if self._file < 0:
            return b""
        try:
            new = os.pread(self._file, TURN_BYTES, self._logged)
            whole = len(new) if at_end or len(new) == TURN_BYTES else new.rfind(b"\n") + 1
            self._logged += whole
            if whole == len(new) and self._logged >= TURN_BYTES:
                os.ftruncate(self._file, 0)
                self._logged = 0
        except OSError:
            return b""
        return new[:whole]
