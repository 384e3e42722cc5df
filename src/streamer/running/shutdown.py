"""The end of a run: in order or as it is, but within a time that does not depend on disk, device or
terminal."""

import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio

from streamer.concurrency.threads import Threads, finished_within
from streamer.errors import RunFault, StreamerError, one_line
from streamer.monitoring.status import State
from streamer.monitoring.status_reporter import StatusReporter
from streamer.writing.directory import RunDirectory
from streamer.writing.storage.local import DiskFull
from streamer.writing.writer import Writer

DROP_SECONDS = 13.0
"""What is still in flight so long after a stop is dropped; nothing new was begun after 10."""
GIVE_UP_SECONDS = 16.0
"""So long after a stop, a directory that could not be closed is left as it is."""
CLOSE_SECONDS = 3.0
"""For leaving a directory as it is after a signal, for a last status, and for letting go of it."""
UNHURRIED_SECONDS = 15.0
"""For leaving a directory as it is after a fault."""
LOOK_SECONDS = 0.2


class Overdue(RunFault):
    """A run that was stopped did not come to its end in time."""


@contextlib.asynccontextmanager
async def lock_released_after(directory: RunDirectory | None) -> AsyncIterator[None]:
    """However it ends, another may write to it then."""
    try:
        yield
    finally:
        if directory is not None:
            await finished_within(CLOSE_SECONDS, "leave", directory.leave)


@contextlib.asynccontextmanager
async def drain_deadline(stopped: threading.Event, threads: Threads) -> AsyncIterator[None]:
    """Around what is in flight: once the run is `stopped` for long, it is cancelled.

    :raises Overdue: what hangs is the writer, and nobody knows how far it came.
    """

    async def drop() -> None:
        await _overdue(stopped, DROP_SECONDS)
        in_flight.cancel_scope.cancel()
        threads.leave_all()

    async with anyio.create_task_group() as in_flight:
        in_flight.start_soon(drop)
        yield
        in_flight.cancel_scope.cancel()
    if "write" in threads.left:
        raise Overdue(f"stopped, but writing took more than {DROP_SECONDS:g} s. Resume the run")


async def close_deadline(stopped: threading.Event, threads: Threads) -> None:
    """Until cancelled, wait until the run is `stopped` for still longer.

    :raises Overdue: then.
    """
    await _overdue(stopped, GIVE_UP_SECONDS)
    threads.leave_all()
    raise Overdue(f"stopped, but not closed after {GIVE_UP_SECONDS:g} s. Resume the run")


async def _overdue(stopped: threading.Event, seconds: float) -> None:
    while not stopped.is_set():
        await anyio.sleep(LOOK_SECONDS)
    await anyio.sleep(seconds)


async def close_as_it_is(
    directory: RunDirectory,
    writer: Writer | None,
    outside: StatusReporter,
    threads: Threads,
    *,
    state: State,
    cause: BaseException,
    hurried: bool,
) -> None:
    """Leave what is finished, and the cause in the manifest, if the disk allows it."""

    told = f"{type(cause).__name__}: {cause}"

    def close() -> None:
        with contextlib.suppress(Exception):  # the cause is what matters
            if writer is not None and "write" not in threads.left:  # else it may be at it
                writer.abandon()
        with contextlib.suppress(Exception):
            counts = {} if writer is None else {"counts": writer.committed}
            directory.close(state, cause=told, **counts)
        with contextlib.suppress(Exception):
            outside.end(state, told)

    is_closed = await finished_within(
        CLOSE_SECONDS if hurried else UNHURRIED_SECONDS, "close", close
    )
    if not is_closed or "write" in threads.left:
        directory.keep()


def state_after(cause: BaseException, signals: Sequence[int]) -> State:
    """How a run ended that `cause` broke off, after these signals. One that was stopped before it
    could wait for room, or come to its end, exits as such."""
    if isinstance(cause, Overdue) or (signals and isinstance(cause.__cause__, DiskFull)):
        if signals and isinstance(cause, RunFault):
            cause.exit_code = 128 + signals[0]
        return "stopped"
    return "failed"


def fault_of(cause: BaseException, path: Path) -> BaseException:
    """What to raise for it."""
    if isinstance(cause, StreamerError) or not isinstance(cause, Exception):
        return cause
    return RunFault(
        f"the run broke off: {one_line(cause)}. Finished parts are kept in {path}: resume the run "
        f"to go on."
    )
