"""Blocking work in threads, and how to abandon one that hangs: nothing in Python can end it.

Every such thread has a recognizable name while it works, so that the command knows whether one
hangs.
"""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import anyio
from anyio import from_thread, to_thread

T = TypeVar("T")
GRACE_SECONDS = 10.0
"""From leaving one thread behind until leaving all others: they may wait for what it holds."""
NAME = "streamer "
"""The names of our threads begin with it."""


class Threads:
    """Runs the calls of stages in threads, one call at a time for each stage. When a stage is
    cancelled, its call is waited for, unless its thread is left behind."""

    def __init__(self) -> None:
        self.left: set[str] = set()
        """Stages whose thread was left behind. Such a thread may still work."""
        self._waiting: dict[str, asyncio.Task[None]] = {}

    async def run(self, stage: str, call: Callable[[], T]) -> T:
        """What `call` returns, called in a thread that is named after `stage`.

        Cancelling this waits for the call to end, unless the thread is left behind.
        """
        task = asyncio.current_task()
        assert task is not None
        self._waiting[stage] = task
        try:
            return await to_thread.run_sync(_named(stage, call))
        finally:
            del self._waiting[stage]

    def leave(self, stages: Collection[str]) -> None:
        """Leave the threads of `stages` behind, and after `GRACE_SECONDS` all others. The tasks of
        the stages end as if cancelled."""
        self._leave(stages)
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self.leave_all)

    def leave_all(self) -> None:
        """Leave all threads behind."""
        self._leave([*self._waiting])

    def _leave(self, stages: Collection[str]) -> None:
        for stage in stages:
            if stage in self._waiting:
                self.left.add(stage)
                self._waiting[stage].cancel()  # asyncio's: anyio's would wait for the thread


async def in_thread(name: str, call: Callable[[], T]) -> T:
    """What `call` returns, called in a thread. If this is cancelled, the thread is left behind."""
    return await to_thread.run_sync(_named(name, call), abandon_on_cancel=True)


async def finished_within(seconds: float, name: str, call: Callable[[], object]) -> bool:
    """Whether `call`, called in a thread, ended within `seconds`; if not, the thread is left
    behind. Cannot be cancelled meanwhile. Raises what `call` raises."""
    with anyio.move_on_after(seconds, shield=True):
        await in_thread(name, call)
        return True
    return False


def in_own_thread(call: Callable[[], T]) -> T:
    """What `call` returns, called in a new thread that ends afterwards. Waits for it.

    For loading the model on a CPU: as long as a thread lives that has run a parallel region, OpenMP
    keeps a team of threads for it. If all teams together have more threads than there are cores,
    waiting threads go to sleep at once instead of spinning, and every parallel region then takes
    longer to start (`bench/teams.py`). So only one thread that lives, that of the compute stage,
    should have a team.
    """
    with ThreadPoolExecutor(1, threading.current_thread().name) as thread:
        return thread.submit(call).result()


def _named(name: str, call: Callable[[], T]) -> Callable[[], T]:
    def named() -> T:
        thread = threading.current_thread()
        before, thread.name = thread.name, NAME + name
        try:
            return call()
        finally:
            thread.name = before

    return named


def in_loop(call: Callable[[], Awaitable[T]]) -> T:
    """What `call` returns, awaited in the event loop; for the thread of a stage, which waits.

    :raises CancelledError: the stage was cancelled. anyio cancels only what waits in the loop at
        that moment; a later call would wait for ever, so it is not begun.
    """

    async def unless_cancelled() -> T:
        if anyio.current_effective_deadline() == -math.inf:
            raise anyio.get_cancelled_exc_class()
        return await call()

    return from_thread.run(unless_cancelled)


def a_thread_hangs() -> bool:
    """Whether one of our threads still works; for after the run."""
    return any(thread.name.startswith(NAME) for thread in threading.enumerate())
