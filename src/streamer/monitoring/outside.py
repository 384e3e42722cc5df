"""What a run tells the outside while it goes on: status.json, its log, nothing over its display."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
from anyio import to_thread

from streamer.monitoring.chatter import STDERR, Chatter
from streamer.monitoring.incidents import Incidents
from streamer.monitoring.observer import Observer
from streamer.monitoring.snapshot import Snapshot
from streamer.monitoring.status import State, StatusFile
from streamer.monitoring.warnings import Log

STATUS_SECONDS = 2.0
SUMMARY_SECONDS = 60.0
HANG_SECONDS = 5.0
"""A disk that takes longer for the status is not waited for at the end."""


class Outside:
    """The telling side of one run."""

    def __init__(self, directory: Path, log: Log, observer: Observer, title: str) -> None:
        self.incidents = Incidents(log)
        """Takes every result."""
        self._status = StatusFile(directory, title)
        self._chatter = Chatter(directory, log)
        self._observer = observer
        self._summarized = time.monotonic()
        self._turn = threading.Lock()
        self._is_over = False

    @contextlib.contextmanager
    def listening(self, live: bool) -> Iterator[None]:
        """While inside, what is written to standard error goes to the log, if it would be written
        over a live display."""
        try:
            with self._chatter.taken() if live and os.isatty(STDERR) else contextlib.nullcontext():
                yield
        finally:
            self.incidents.summarize()

    async def keep_telling(self, is_stopping: Callable[[], bool]) -> None:
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
            await to_thread.run_sync(tell, self._observer.look(), abandon_on_cancel=True)
            await anyio.sleep(STATUS_SECONDS)

    def end(self, state: State, note: str | None = None) -> None:
        """The last word: how it ended, and why."""
        self._is_over = True
        if self._turn.acquire(timeout=HANG_SECONDS):
            self._status.write(state, self._observer.look(), note)
            self._turn.release()
