"""How a run reports its progress to whoever started it: a screen, nobody, or another process."""

import math
from typing import Protocol

from streamer.monitoring.snapshot import Snapshot


class Progress(Protocol):
    """Called from the run's event loop, and `print` from any thread. No method waits."""

    seconds: float
    """Seconds between two calls of `show`."""
    owns_terminal: bool
    """Whether standard error must be kept off the terminal meanwhile."""

    def begin(self, title: str) -> None:
        """The stages start."""

    def show(self, now: Snapshot) -> None:
        """Show the state of the run."""

    def print(self, line: str) -> None:
        """Print a note, a wait or a signal when it happens."""

    def end(self, last: Snapshot) -> None:
        """The stages have ended, with or without a fault."""

    def abandon(self) -> None:
        """The process is about to exit in the middle of the run."""


class Silent:
    """Shows nothing."""

    seconds = math.inf
    owns_terminal = False

    def begin(self, title: str) -> None:
        """Do nothing."""

    def show(self, now: Snapshot) -> None:
        """Do nothing."""

    def print(self, line: str) -> None:
        """Do nothing."""

    def end(self, last: Snapshot) -> None:
        """Do nothing."""

    def abandon(self) -> None:
        """Do nothing."""


SILENT = Silent()
