"""Writes status.json while a run goes on, and logs what comes in meanwhile."""

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
    """Reports on a run from when its stages begin to work: status.json, the log's incidents, and
    what libraries write to standard error."""

    def __init__(self, directory: Path, log: Log, observer: Observer, title: str) -> None:
        self.incidents = Incidents(log)
        """Takes every result."""
        self._status = _Status(directory, observer, title)
        self._stderr = StderrCapture(directory, log)
        self._summarized = time.monotonic()

    def stderr_redirected(self, owns_terminal: bool) -> contextlib.AbstractContextManager[None]:
        """While inside, log what is written to standard error, if it would be written over a
        display that owns the terminal."""
        if owns_terminal and os.isatty(STDERR):
            return self._stderr.redirected()
        return contextlib.nullcontext()

    async def keep_reporting(self, is_stopping: Callable[[], bool]) -> NoReturn:
        """Report every few seconds until cancelled. A disk that hangs holds up nothing else."""

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
        """Log what is left and write the last status: how the run ended, and why. Waits for the
        disk."""
        self._stderr.end()
        self.incidents.summarize()
        self._status.end(state, note)


class LoadingStatus:
    """Writes the status of a resumed run while its model is loaded."""

    def __init__(self, directory: Path, observer: Observer, title: str) -> None:
        self._status = _Status(directory, observer, title)

    async def keep_reporting(self) -> NoReturn:
        """Report every few seconds until cancelled. A disk that hangs holds up nothing else."""
        await self._status.keep(partial(self._status.write, "loading"))

    def leave(self) -> None:
        """Write no more; another reporter takes over. Waits for the disk."""
        self._status.leave()

    def fail(self, note: str) -> None:
        """Write as the last status why the run does not go on. Waits for the disk."""
        self._status.end("failed", note)


class _Status:
    """A status.json with one last writer: a thread that was left behind does not write after."""

    def __init__(self, directory: Path, observer: Observer, title: str) -> None:
        self._file = StatusFile(directory, title)
        self._observer = observer
        self._turn = threading.Lock()
        self._is_over = False

    async def keep(self, report: Callable[[Snapshot], None]) -> NoReturn:
        """Call `report` in a thread every few seconds, with the run as it is then."""
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
