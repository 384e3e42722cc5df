"""Noticing that a run stands still: a stage that hangs, or stages that wait for each other."""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from typing import NoReturn

import anyio

from streamer.concurrency.events import Log
from streamer.concurrency.threads import in_thread
from streamer.errors import RunFault
from streamer.monitoring.counters import STAGES, Counters

LOOK_SECONDS = 1.0
LOG_SECONDS = 10.0


async def watch(
    counters: Counters,
    seconds: float,
    log: Log,
    leave: Callable[[Collection[str]], None],
) -> NoReturn:
    """Watch until cancelled, or until a stage that is at work, or every stage, has made no progress
    for `seconds`. Then `log` the stacks of all threads, and `leave` the stages that hang.

    Of the time between two looks at most two intervals count, so a process that was suspended has
    not stalled; nor has one that waits for room on a disk, or for a file system.

    :raises RunFault: after that.
    """
    every = min(LOOK_SECONDS, seconds / 10)
    still = dict.fromkeys(STAGES, 0.0)
    beats, then = dict(counters.beats), time.monotonic()
    while True:
        await anyio.sleep(every)
        before, beats = beats, dict(counters.beats)
        before_then, then = then, time.monotonic()
        for stage in STAGES:
            passed = min(then - before_then, 2 * every)
            gets_on = beats[stage] != before[stage] or counters.waiting_for is not None
            still[stage] = 0.0 if gets_on else still[stage] + passed
        hanging = [stage for stage in counters.at_work() if still[stage] >= seconds]
        if hanging or min(still.values()) >= seconds:
            break
    found = f"stage {' and '.join(hanging)}" if hanging else "all stages wait for each other: each"
    entries = {"stages": hanging, "seconds": seconds, "stacks": stacks()}
    with anyio.move_on_after(LOG_SECONDS):  # the disk may be what hangs
        await in_thread("log", lambda: log("stalled", entries))
    leave(hanging)
    raise RunFault(
        f"the run stands still: {found} made no progress for {seconds:g} s (stall_seconds). The "
        f'stack of every thread is in the run\'s log.jsonl, at "stalled". Resume the run: '
        f"it goes on behind the last finished part"
    )


def stacks() -> dict[str, str]:
    """The stack of every thread, by its name and number."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        f"{names.get(number, 'unknown')} ({number})": "".join(traceback.format_stack(frame))
        for number, frame in sys._current_frames().items()
    }
