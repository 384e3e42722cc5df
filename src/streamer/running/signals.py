"""Signals during a run: stop in order, stop at once, or lose the terminal and go on."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from streamer.monitoring.progress import Progress
from streamer.monitoring.stderr_capture import STDERR


@contextlib.contextmanager
def exit_on_signal() -> Iterator[None]:
    """While inside, SIGINT and SIGTERM end the process at once, except within `stop_on_signal`: no
    record has been read, and torch aborts if it is interrupted while it is imported. For the main
    thread."""

    def leave(number: int, _: object) -> None:
        with contextlib.suppress(OSError):
            os.write(STDERR, b"stopped\n")
        os._exit(128 + number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_on_signal(
    stop: Callable[[], None], signals: list[int], progress: Progress
) -> Iterator[None]:
    """While inside: the first SIGINT or SIGTERM is put into `signals` and calls `stop`, so that
    what is in flight drains; a second one ends the process. SIGHUP, which a terminal sends when it
    goes away, does nothing. Afterwards, all handlers are as they were.

    Does nothing outside the main thread, which alone gets signals: a notebook may use another.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int) -> None:
        if signals:
            progress.print("stopped at once: finished parts are kept, what was in flight is lost")
            progress.abandon()
            os._exit(128 + number)
        signals.append(number)
        stop()
        progress.print("stopping: what is in flight is finished first; a second signal drops it")

    loop = asyncio.get_running_loop()
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
