"""Signals during a run: stop in order, stop at once, or lose the terminal and go on."""

import os
import signal
import threading
from collections.abc import Callable

import anyio
from rich.console import Console


async def stop_on_signal(
    stop: Callable[[], None], stopped: list[int], console: Console, say: Callable[[str], None]
) -> None:
    """Until cancelled: the first SIGINT or SIGTERM is put into `stopped` and calls `stop`, so that
    what is in flight drains; a second ends the process. SIGHUP, which a terminal sends when it
    goes away, ends nothing."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread is told of signals: a notebook runs us in another
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP:
                continue
            if stopped:
                say("stopped at once: finished parts are kept, what was in flight is lost")
                console.show_cursor(True)
                os._exit(128 + number)
            stopped.append(number)
            stop()
            say("stopping: what is in flight will be finished; a second signal drops it")
