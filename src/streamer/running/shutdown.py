"""How a run ends: closed in order, or left as it is, within a time that does not depend on disk,
device or terminal."""

import contextlib
import threading
from collections.abc import AsyncIterator, Sequence

import anyio

from streamer.concurrency.threads import Threads, finished_within
from streamer.errors import RunFault, StreamerError, one_line
from streamer.monitoring.status import State
from streamer.monitoring.status_reporter import StatusReporter
from streamer.writing.directory import RunDirectory
from streamer.writing.storage.base import DiskFull
from streamer.writing.writer import Writer

DROP_SECONDS = 13.0
"""After a stop, until what is still in flight is dropped. The stages begin nothing new after 10 s
(`loader.DRAIN_SECONDS`), so this leaves a batch 3 s."""
GIVE_UP_SECONDS = 16.0
"""After a stop, until a directory that could not be closed is left as it is. With the waits that
follow, a run is over within 30 s, when a batch system kills it."""
CLOSE_SECONDS = 3.0
"""For each of: leaving a directory as it is after a signal, the last status, the release of the
lock."""
UNHURRIED_SECONDS = 15.0
"""For leaving a directory as it is after a fault."""
LOOK_SECONDS = 0.2


class Overdue(RunFault):
    """A run that was stopped did not end in time."""


@contextlib.asynccontextmanager
async def lock_released_after(directory: RunDirectory | None) -> AsyncIterator[None]:
    """Release the lock of `directory` at the end, or give up after a few seconds."""
    try:
        yield
    finally:
        if directory is not None:
            await finished_within(CLOSE_SECONDS, "leave", directory.leave)


@contextlib.asynccontextmanager
async def drain_deadline(stopped: threading.Event, threads: Threads) -> AsyncIterator[None]:
    """While inside: cancel what is in flight `DROP_SECONDS` after the run is `stopped`.

    :raises Overdue: the writer's thread hangs, so what it has written is not known.
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
    """Wait, until cancelled.

    :raises Overdue: `GIVE_UP_SECONDS` after the run was `stopped`.
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
    reporter: StatusReporter,
    threads: Threads,
    *,
    state: State,
    cause: BaseException,
    hurried: bool,
) -> None:
    """Drop the open parts, and write `cause` into the manifest and the status, as far as the disk
    allows it. Where a thread may still write, the lock is kept."""

    text = f"{type(cause).__name__}: {cause}"

    def close() -> None:
        with contextlib.suppress(Exception):  # the cause is what matters
            if writer is not None and "write" not in threads.left:  # else its thread may write
                writer.abandon()
        with contextlib.suppress(Exception):
            counts = {} if writer is None else {"counts": writer.committed}
            directory.close(state, cause=text, **counts)
        with contextlib.suppress(Exception):
            reporter.end(state, text)

    is_closed = await finished_within(
        CLOSE_SECONDS if hurried else UNHURRIED_SECONDS, "close", close
    )
    if not is_closed or "write" in threads.left:
        directory.keep()


def state_after(cause: BaseException, signals: Sequence[int]) -> State:
    """How a run ended that `cause` broke off: "stopped" if signals ended it while it waited for
    room on the disk, or if it was stopped and hung; then its exit code is that of the signal."""
    if isinstance(cause, Overdue) or (signals and isinstance(cause.__cause__, DiskFull)):
        if signals and isinstance(cause, RunFault):
            cause.exit_code = 128 + signals[0]
        return "stopped"
    return "failed"


def fault_of(cause: BaseException, where: str) -> BaseException:
    """What to raise for `cause`, which broke off the run in `where`."""
    if isinstance(cause, StreamerError) or not isinstance(cause, Exception):
        return cause
    return RunFault(
        f"the run broke off: {one_line(cause)}. Finished parts are kept in {where}: resume the run "
        f"to go on."
    )
