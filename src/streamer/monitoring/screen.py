"""Printing in a thread of its own: a terminal that nobody reads holds up nothing else."""

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
"""Jobs that wait to be printed. More are left out: the terminal has been stopped for long."""
LAST_SECONDS = 2.0
"""`close` waits at most so long for what is still to be printed."""


class Screen:
    """Prints to a console, one thing after the other, as long as it is entered.

    A stopped terminal, or a pipe that nobody drains, holds up this thread alone; one that is gone
    is no fault.
    """

    def __init__(self, console: Console, how: Progress) -> None:
        self.console = console
        self.how = how
        """What is wanted; `print` prints nothing for "none"."""
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
        """Whether all is printed."""
        return not self._jobs.unfinished_tasks

    def print(self, text: str) -> None:
        """Print a line, after all that came before."""
        if self.how != "none":
            self.do(
                partial(self.console.print, text, highlight=False, markup=False, soft_wrap=True)
            )

    def do(self, job: Callable[[], object] | None) -> None:
        """Have `job` print something, after all that came before. None only wakes the thread."""
        with contextlib.suppress(Full):  # then the thread is not asleep
            self._jobs.put_nowait(job)

    def close(self) -> None:
        """Wait for what is still to be printed, for `LAST_SECONDS` at most, or until Ctrl-C."""
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
