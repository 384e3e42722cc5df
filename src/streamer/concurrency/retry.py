"""Retries after faults that may pass by themselves: a full disk, a failing network file system."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from streamer.concurrency.events import Log, ignore

T = TypeVar("T")
OnWait: TypeAlias = Callable[[str | None], None]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retries that are logged, and that end when the run is stopped."""

    stopped: threading.Event = field(default_factory=threading.Event)
    """Once it is set, nothing is retried."""
    log: Log = ignore
    on_wait: OnWait = ignore
    """Called with the reason before each wait, and with None when the action succeeded or failed
    for good."""

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
        """What `action` returns. It is retried after errors that are `passing`, until `stop`.

        Each retry is logged as `event` with `entries`. Raises what the last try raised.
        """
        begin = time.monotonic()
        tries = 1

        def report(state: RetryCallState) -> None:
            nonlocal tries
            tries += 1
            error = state.outcome.exception() if state.outcome else None
            cause = {"errno": getattr(error, "errno", None), "error": in_a_line(error)}
            self.log(event, {**entries, **cause, "seconds_to_next": state.upcoming_sleep})
            self.on_wait(f"{event} ({where}): {cause['error']}")

        retrying = Retrying(
            retry=retry_if_exception(passing),
            wait=wait,
            stop=stop | stop_when_event_set(self.stopped),
            sleep=sleep_using_event(self.stopped),
            before_sleep=report,
            reraise=True,
        )
        try:
            result = retrying(action)
            if tries > 1:
                passed = {"tries": tries, "seconds": round(time.monotonic() - begin, 3)}
                self.log("went on", {"after": event, **entries, **passed})
            return result
        finally:
            if tries > 1:
                self.on_wait(None)


def in_a_line(error: BaseException | None) -> str:
    """An error in one line. The message of an OSError suffices; other errors are named as well."""
    text = " ".join(str(error).split())
    return text if isinstance(error, OSError) and text else f"{type(error).__name__}: {text}"
