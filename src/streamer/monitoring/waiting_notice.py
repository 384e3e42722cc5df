"""What a stage waits for to pass: shown while it lasts, said once."""

from collections.abc import Callable

from streamer.monitoring.counters import Counters


class WaitingNotice:
    """Of one stage; called with the reason before each wait, and with None when it is over."""

    def __init__(self, counters: Counters, say: Callable[[str], None]) -> None:
        self._counters = counters
        self._say = say
        self._reason: str | None = None

    def __call__(self, reason: str | None) -> None:
        if reason and not self._reason:
            self._say(f"waiting: {reason}")
        if reason or self._counters.trouble == self._reason:
            self._counters.trouble = reason
        self._reason = reason
