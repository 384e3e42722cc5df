"""How whoever started a run hears of its progress: a screen, nobody, or another process."""

import math
from typing import Protocol

from streamer.monitoring.snapshot import Snapshot


class Progress(Protocol):
    """Called from the run's event loop, and `print` from any thread. No method waits."""

    seconds: float
    """Between two calls of `show`."""
    owns_terminal: bool
    """Whether standard error has to be kept away from the terminal meanwhile."""

    def begin(self, title: str) -> None:
        """The stages begin to work."""

    def show(self, now: Snapshot) -> None:
        """How the run gets on."""

    def print(self, line: str) -> None:
        """Something to know, as it happens: a note, a wait, a signal."""

    def end(self, last: Snapshot) -> None:
        """The stages have ended, well or not."""

    def abandon(self) -> None:
        """The process ends now, in the middle of the run."""


class Silent:
    """Nobody wants to know."""

    seconds = math.inf
    owns_terminal = False

    def begin(self, title: str) -> None:
        """Nothing."""

    def show(self, now: Snapshot) -> None:
        """Nothing."""

    def print(self, line: str) -> None:
        """Nothing."""

    def end(self, last: Snapshot) -> None:
        """Nothing."""

    def abandon(self) -> None:
        """Nothing."""


SILENT = Silent()
