"""What a run tells the outside while it goes on: status.json, its log, nothing over its display."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import anyio
import torch

from streamer.concurrency.threads import in_thread
from streamer.monitoring.counters import Counters
from streamer.monitoring.incidents import Incidents
from streamer.monitoring.library_warnings import Log
from streamer.monitoring.observer import Observer
from streamer.monitoring.snapshot import Snapshot
from streamer.monitoring.status import State, StatusFile
from streamer.monitoring.stderr_capture import STDERR, StderrCapture

STATUS_SECONDS = 2.0
SUMMARY_SECONDS = 60.0


class StatusReporter:
    """The telling side of one run."""

    def __init__(self, directory: Path, log: Log, observer: Observer, title: str) -> None:
        self.incidents = Incidents(log)
        """Takes every result."""
        self._status = StatusFile(directory, title)
        self._chatter = StderrCapture(directory, log)
        self._observer = observer
        self._summarized = time.monotonic()
        self._turn = threading.Lock()
        self._is_over = False

    def listening(self, live: bool) -> contextlib.AbstractContextManager[None]:
        """While inside, what is written to standard error goes to the log, if it would be written
        over a live display."""
        return self._chatter.taken() if live and os.isatty(STDERR) else contextlib.nullcontext()

    async def keep_telling(self, is_stopping: Callable[[], bool]) -> NoReturn:
        """Until cancelled. A disk that hangs holds up nothing but this."""

        def tell(now: Snapshot) -> None:
            state: State = "stopping" if is_stopping() else "paused" if now.note else "running"
            with self._turn:
                if self._is_over:
                    return
                self._status.write(state, now)
            self._chatter.tell()
            if time.monotonic() - self._summarized >= SUMMARY_SECONDS:
                self.incidents.summarize()
                self._summarized = time.monotonic()

        while True:
            await in_thread("status", partial(tell, self._observer.look()))
            await anyio.sleep(STATUS_SECONDS)

    def end(self, state: State, note: str | None = None) -> None:
        """The last word: how it ended, and why. Waits for the disk."""
        self._chatter.end()
        self.incidents.summarize()
        self._is_over = True
        with self._turn:
            self._status.write(state, self._observer.look(), note)


class Loading:
    """Tells of a run that goes on, while its model is loaded."""

    def __init__(self, directory: Path, title: str, counters: Counters) -> None:
        self._status = StatusFile(directory, title)
        self._observer = Observer(counters, (), torch.device("cpu"))
        self._turn = threading.Lock()
        self._is_over = False

    async def keep_telling(self) -> NoReturn:
        """Until cancelled."""

        def tell(now: Snapshot) -> None:
            with self._turn:
                if not self._is_over:
                    self._status.write("loading", now)

        while True:
            await in_thread("status", partial(tell, self._observer.look()))
            await anyio.sleep(STATUS_SECONDS)

    def leave(self) -> None:
        """Tell no more. Waits for the disk."""
        self._is_over = True
        with self._turn:
            pass

    def end(self, note: str) -> None:
        """Why the run does not go on."""
        self.leave()
        self._status.write("failed", self._observer.look(), note)
