"""Writes status.json during a run, and logs incidents and standard error."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import anyio

from streamer.concurrency.events import Log
from streamer.concurrency.threads import in_thread
from streamer.monitoring.incidents import Incidents
from streamer.monitoring.observer import Observer
from streamer.monitoring.snapshot import Snapshot
from streamer.monitoring.status import State, StatusFile
from streamer.monitoring.stderr_capture import STDERR, StderrCapture

STATUS_SECONDS = 2.0
SUMMARY_SECONDS = 60.0


class StatusReporter:
    """Reports on a run from the start of its stages: status.json, incidents in the log, and what
    libraries write to standard error."""

    def __init__(self, status: StatusFile, directory: Path, log: Log, observer: Observer) -> None:
        """`directory`: where standard error goes."""
        self.incidents = Incidents(log)
        """Takes every result."""
        self._status = _Status(status, observer)
        self._stderr = StderrCapture(directory, log)
        self._summarized = time.monotonic()

    def stderr_redirected(self, owns_terminal: bool) -> contextlib.AbstractContextManager[None]:
        """While inside, redirect standard error to the log, if it would otherwise be written over a
        live display."""
        if owns_terminal and os.isatty(STDERR):
            return self._stderr.redirected()
        return contextlib.nullcontext()

    async def keep_reporting(self, is_stopping: Callable[[], bool]) -> NoReturn:
        """Report every few seconds until cancelled. A disk that hangs blocks nothing else."""

        def report(now: Snapshot) -> None:
            self._status.write(
                "stopping" if is_stopping() else "paused" if now.note else "running", now
            )
            self._stderr.log_new()
            if time.monotonic() - self._summarized >= SUMMARY_SECONDS:
                self.incidents.summarize()
                self._summarized = time.monotonic()

        await self._status.keep(report)

    def end(self, state: State, note: str | None = None) -> None:
        """Log what is left and write the final status: how the run ended, and why. Waits for the
        disk."""
        self._stderr.end()
        self.incidents.summarize()
        self._status.end(state, note)


class LoadingStatus:
    """Writes the status of a resumed run while its model is loaded."""

    def __init__(self, status: StatusFile, observer: Observer) -> None:
        self._status = _Status(status, observer)

    async def keep_reporting(self) -> NoReturn:
        """Report every few seconds until cancelled. A disk that hangs blocks nothing else."""
        await self._status.keep(partial(self._status.write, "loading"))

    def leave(self) -> None:
        """Stop writing; another reporter takes over. Waits for the disk."""
        self._status.leave()

    def fail(self, note: str) -> None:
        """Write the final status: why the run cannot go on. Waits for the disk."""
        self._status.end("failed", note)


class _Status:
    """A status.json whose final status stays: a thread left behind cannot overwrite it."""

    def __init__(self, file: StatusFile, observer: Observer) -> None:
        self._file = file
        self._observer = observer
        self._turn = threading.Lock()
        self._is_over = False

    async def keep(self, report: Callable[[Snapshot], None]) -> NoReturn:
        """Call `report` in a thread every few seconds, with a new snapshot."""
        while True:
            await in_thread("status", partial(report, self._observer.look()))
            await anyio.sleep(STATUS_SECONDS)

    def write(self, state: State, now: Snapshot) -> None:
        with self._turn:
            if not self._is_over:
                self._file.write(state, now)

    def leave(self) -> None:
        self._is_over = True
        with self._turn:
            pass

    def end(self, state: State, note: str | None) -> None:
        self.leave()
        self._file.write(state, self._observer.look(), note)
