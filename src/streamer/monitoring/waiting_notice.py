"""What a stage waits for: shown in every snapshot while it lasts, printed once."""

from collections.abc import Callable

from streamer.monitoring.counters import Counters


class WaitingNotice:
    """The `on_wait` of one stage's `RetryPolicy`: called with the reason before each wait, and with
    None when it is over."""

    def __init__(self, counters: Counters, print_line: Callable[[str], None]) -> None:
        self._counters = counters
        self._print = print_line
        self._reason: str | None = None

    def __call__(self, reason: str | None) -> None:
        if reason and not self._reason:
            self._print(f"waiting: {reason}")
        if reason or self._counters.waiting_for == self._reason:
            self._counters.waiting_for = reason
        self._reason = reason
