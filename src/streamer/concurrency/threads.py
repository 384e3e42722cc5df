"""Blocking work in threads, and how to leave one that hangs: nothing in Python can end it.

Every such thread is named while it works, so that the command knows at its end whether one hangs.
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
NAME = "streamer "


class Threads:
    """Runs the calls of stages in threads, one at a time for each. A thread that works is waited
    for, even if its stage was cancelled; one that hangs is left behind."""

    def __init__(self) -> None:
        self.left: set[str] = set()
        """Stages whose thread was left behind. It may still work, or begin to again."""
        self._waiting: dict[str, asyncio.Task[None]] = {}

    async def run(self, stage: str, call: Callable[[], T]) -> T:
        """What `call` returns, in a thread that is named after `stage`."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting[stage] = task
        try:
            return await to_thread.run_sync(_named(stage, call))
        finally:
            del self._waiting[stage]

    def leave(self, stages: Collection[str]) -> None:
        """Wait no longer for the threads of `stages`; and after a while for none: others may wait
        for what these hold. The stages' tasks end as if cancelled."""
        self._leave(stages)
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self.leave_all)

    def leave_all(self) -> None:
        """Wait no longer for any."""
        self._leave([*self._waiting])

    def _leave(self, stages: Collection[str]) -> None:
        for stage in stages:
            if stage in self._waiting:
                self.left.add(stage)
                self._waiting[stage].cancel()  # asyncio's: anyio's would wait for the thread


async def in_thread(name: str, call: Callable[[], T]) -> T:
    """What `call` returns, in a thread that is left behind if this is cancelled."""
    return await to_thread.run_sync(_named(name, call), abandon_on_cancel=True)


async def finished_within(seconds: float, name: str, call: Callable[[], object]) -> bool:
    """Whether `call` came to its end in so many seconds, in a thread that is left behind if not;
    whatever is cancelled meanwhile."""
    with anyio.move_on_after(seconds, shield=True):
        await in_thread(name, call)
        return True
    return False


def in_own_thread(call: Callable[[], T]) -> T:
    """What `call` returns, in a thread that ends with it.

    For a thread that has shared its work out OpenMP keeps others ready, as long as it lives. Where
    they are more than the cores, all of them sleep at once when they have to wait, and are late
    when it goes on (see `bench/teams.py`): of the threads that live, only one should share out.
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
    """What `call` returns, awaited in the event loop for the thread of a stage.

    If the stage is cancelled, anyio cancels what waits there, but not what comes after that, which
    would wait for ever: it is not begun.
    """

    async def unless_cancelled() -> T:
        if anyio.current_effective_deadline() == -math.inf:
            raise anyio.get_cancelled_exc_class()
        return await call()

    return from_thread.run(unless_cancelled)


def a_thread_hangs() -> bool:
    """Whether one of these threads still works, to be asked after the run."""
    return any(thread.name.startswith(NAME) for thread in threading.enumerate())
