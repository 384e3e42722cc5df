"""Trying again what may pass by itself: a full disk, a file system that stumbles."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_base
from tenacity.wait import wait_base

T = TypeVar("T")


Log: TypeAlias = Callable[[str, dict[str, Any]], None]
OnWait: TypeAlias = Callable[[str | None], None]


def _nobody(_: str | None) -> None:
    pass


@dataclass(slots=True)
class RetryPolicy:
    """Who hears that a part of the run waits, and what ends the wait."""

    stopped: threading.Event = field(default_factory=threading.Event)
    """Once it is set, nothing is waited for any more."""
    log: Log | None = None
    """What is told before there is one waits for it."""
    on_wait: OnWait = _nobody
    """Told the reason before each wait, and None when it is over, well or badly."""
    _untold: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def heard_by(self, log: Log, on_wait: OnWait) -> None:
        """Tell them what happened so far, and what happens from now on."""
        self.log, self.on_wait = log, on_wait
        untold, self._untold = self._untold, []
        for event, entries in untold:
            log(event, entries)

    def tell(self, event: str, entries: dict[str, Any]) -> None:
        """Log `event`."""
        if self.log is None:
            self._untold.append((event, entries))
        else:
            self.log(event, entries)

    def retry(
        self,
        action: Callable[[], T],
        *,
        passing: Callable[[BaseException], bool],
        wait: wait_base,
        stop: stop_base,
        event: str,
        where: str,
        entries: dict[str, Any],
    ) -> T:
        """What `action` returns, tried again after errors that are `passing`, until `stop`.

        Each is logged as `event` with `entries`. Raises what the last try did.
        """
        begin = time.monotonic()
        tries = 1

        def tell(state: RetryCallState) -> None:
            nonlocal tries
            tries += 1
            error = state.outcome.exception() if state.outcome else None
            told = {"errno": getattr(error, "errno", None), "error": in_a_line(error)}
            self.tell(event, {**entries, **told, "seconds_to_next": state.upcoming_sleep})
            self.on_wait(f"{event} ({where}): {told['error']}")

        retrying = Retrying(
            retry=retry_if_exception(passing),
            wait=wait,
            stop=stop | stop_when_event_set(self.stopped),
            sleep=sleep_using_event(self.stopped),
            before_sleep=tell,
            reraise=True,
        )
        try:
            result = retrying(action)
            if tries > 1:
                passed = {"tries": tries, "seconds": round(time.monotonic() - begin, 3)}
                self.tell("went on", {"after": event, **entries, **passed})
            return result
        finally:
            if tries > 1:
                self.on_wait(None)


def in_a_line(error: BaseException | None) -> str:
    """An error in one line: errors of the system say enough, others are named."""
    text = " ".join(str(error).split())
    return text if isinstance(error, OSError) and text else f"{type(error).__name__}: {text}"
