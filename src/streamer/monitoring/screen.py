"""Printing in its own thread, so that a terminal that nobody reads blocks nothing else."""

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from queue import Full, Queue
from typing import Self

from rich.console import Console

from streamer.concurrency.threads import NAME
from streamer.config import Progress

WAITING = 100
"""Most jobs that wait to be printed. More are dropped: the terminal has long been stopped."""
LAST_SECONDS = 2.0
"""`close` waits at most this long for the jobs that are left."""


class Screen:
    """Prints to a console, one job after another, while it is entered.

    A stopped terminal or a full pipe blocks only this thread; one that was closed is not an error.
    """

    def __init__(self, console: Console, how: Progress) -> None:
        self.console = console
        self.how = how
        """The configured display; with "none", `print` prints nothing."""
        self._jobs: Queue[Callable[[], object] | None] = Queue(WAITING)
        self._is_over = False
        self._thread = threading.Thread(target=self._work, name=f"{NAME}screen", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_idle(self) -> bool:
        """Whether everything has been printed."""
        return not self._jobs.unfinished_tasks

    def print(self, text: str) -> None:
        """Print a line, after all earlier jobs."""
        if self.how != "none":
            self.do(
                partial(self.console.print, text, highlight=False, markup=False, soft_wrap=True)
            )

    def do(self, job: Callable[[], object] | None) -> None:
        """Queue `job`, which prints something, after all earlier jobs. None wakes the thread."""
        with contextlib.suppress(Full):  # then the thread is not asleep
            self._jobs.put_nowait(job)

    def close(self) -> None:
        """Wait until all is printed, for `LAST_SECONDS` at most, or until Ctrl-C."""
        self._is_over = True
        self.do(None)
        with contextlib.suppress(KeyboardInterrupt):
            self._thread.join(LAST_SECONDS)

    def _work(self) -> None:
        while not (self._is_over and self._jobs.empty()):
            job = self._jobs.get()
            # OSError, ValueError: the file is closed, or cannot encode the text; rich exits when
            # a pipe is closed
            with contextlib.suppress(OSError, ValueError, SystemExit):
                if job is not None:
                    job()
            self._jobs.task_done()
