"""Writes that may find the disk full: wait, retry, and give up after a while.

A full disk, a quota and a limit on file sizes pass when somebody makes room. Everything else
(read-only, removed, not permitted) does not pass by waiting and is raised at once.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tenacity import stop_after_delay, wait_exponential

from streamer.concurrency.retry import RetryPolicy
from streamer.writing.storage.base import FULL, DiskFull

T = TypeVar("T")

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 30.0
"""Between two tries: the first wait, doubled each time up to the longest."""


@dataclass(frozen=True, slots=True)
class WaitForRoom:
    """How long to wait each time the disk is full, and how to report it."""

    seconds: float = 0.0
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    def retry(self, action: Callable[[], T], path: Path) -> T:
        """What `action` returns, tried again while there is no room for `path`.

        :raises DiskFull: there was none for too long, or the run is being stopped.
        :raises OSError: anything else that `action` raises.
        """
        begin = time.monotonic()
        try:
            return self.policy.retry(
                action,
                passing=_is_full,
                wait=wait_exponential(FIRST_SECONDS, max=LONGEST_SECONDS),
                stop=stop_after_delay(self.seconds),
                event="disk full",
                where=str(path),
                entries={"path": str(path)},
            )
        except OSError as error:
            if not _is_full(error):
                error.filename = error.filename or str(path)
                raise
            waited = f"{os.strerror(error.errno or 0)}, for {time.monotonic() - begin:.0f} s"
            raise DiskFull(error.errno, waited, str(path)) from error


NO_WAIT = WaitForRoom()


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in FULL
