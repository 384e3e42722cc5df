"""Signals during a run: stop in order, stop at once, or lose the terminal and go on."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from streamer.monitoring.screen import Screen
from streamer.monitoring.stderr_capture import STDERR


@contextlib.contextmanager
def exit_on_signal() -> Iterator[None]:
    """While inside, but for `stop_on_signal`: SIGINT and SIGTERM end the process at once, as
    nothing has begun; torch aborts if it is interrupted while it is imported. SIGHUP ends nothing,
    now and afterwards. To be used in the main thread."""

    def leave(number: int, _: object) -> None:
        with contextlib.suppress(OSError):
            os.write(STDERR, b"stopped\n")
        os._exit(128 + number)

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, leave) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_on_signal(stop: Callable[[], None], stopped: list[int], screen: Screen) -> Iterator[None]:
    """While inside: the first SIGINT or SIGTERM is put into `stopped` and calls `stop`, so that
    what is in flight drains; a second ends the process. SIGHUP, which a terminal sends when it
    goes away, ends nothing. Afterwards, all are as they were."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is told of signals: a notebook runs us in another
        return

    def hear(number: int) -> None:
        if stopped:
            screen.say("stopped at once: finished parts are kept, what was in flight is lost")
            screen.do(screen.console.show_cursor)
            screen.close()
            os._exit(128 + number)
        stopped.append(number)
        stop()
        screen.say("stopping: what is in flight is finished first; a second signal drops it")

    loop = asyncio.get_running_loop()
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, hear, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
