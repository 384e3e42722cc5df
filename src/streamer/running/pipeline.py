"""The stages of a run, the queues between them, and how they drain.

    load ──▶ loaded ──▶ plan ──▶ batches ──▶ compute ──▶ results ──▶ write
    a thread            a thread             one thread              a thread

Every stage is a task of one group. A stage that ends closes the queue behind it, so the end of the
input drains through all of them; a full queue holds the stage before it back; an error in one stage
cancels the others. Blocking work is done in threads, and one thread alone touches the device.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pyarrow as pa

from streamer.batches import Batch, Result
from streamer.computing.fault_isolation import FaultIsolation
from streamer.concurrency.queues import Queue
from streamer.concurrency.threads import Threads, in_loop
from streamer.device.pick import owned_by_this_thread
from streamer.loading.loader import CHUNK_RECORDS, Loader
from streamer.loading.tokenizing import Tokenizing
from streamer.monitoring.counters import Counters
from streamer.planning.planner import Planner
from streamer.records import Chunk
from streamer.writing.writer import Writer

AHEAD = 1
"""Batches that wait for the device; one more is planned meanwhile. More would be cut to a budget
that has changed by the time they are run."""
WAITING = 4
"""Results that wait for the writer."""
TICK_SECONDS = 1.0
"""Between two looks of the writer whether a part is due although no rows come."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What does the work of each stage."""

    loader: Loader
    tokenizing: Tokenizing
    planner: Planner
    computing: FaultIsolation
    writer: Writer
    threads: Threads
    """Where blocking work is done."""


@dataclass(frozen=True, slots=True)
class Queues:
    """The queues between the stages."""

    loaded: Queue[Chunk]
    batches: Queue[Batch]
    results: Queue[Result]

    @property
    def all(self) -> tuple[Queue[Any], ...]:
        """In the order in which a record passes them."""
        return self.loaded, self.batches, self.results

    @classmethod
    def bounded(cls, records: int, size: int) -> "Queues":
        """Queues in which at most so many records and bytes wait to be planned."""
        return cls(
            Queue("loaded", max(1, records // CHUNK_RECORDS), size),
            Queue("batches", AHEAD),
            Queue("results", WAITING),
        )


async def stream(
    stages: Stages,
    queues: Queues,
    counters: Counters,
    on_result: Callable[[Result], None],
    on_rows: Callable[[Mapping[str, pa.Table]], None],
) -> None:
    """Run every record through every stage; returns when all are written.

    `on_result` is called in the compute stage's thread for each result, `on_rows` in the writer's
    for the rows of each window. Cancelling this waits for the threads of all stages (`Threads`).

    :raises ExceptionGroup: of what the stages raise.
    """

    async def run(stage: Callable[..., Awaitable[None]], *parts: object) -> None:
        try:
            await stage(*parts)
        except BaseException:
            stages.loader.stop()  # its thread may wait for a disk or a pipe, and looks at this
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(run, _load, stages, queues.loaded, counters)
        group.start_soon(run, _plan, stages, queues.loaded, queues.batches, counters)
        group.start_soon(run, _compute, stages, queues.batches, queues.results, counters, on_result)
        group.start_soon(run, _write, stages, queues.results, counters, on_rows)


async def _load(stages: Stages, loaded: Queue[Chunk], counters: Counters) -> None:
    loader = stages.loader

    def next_chunk() -> Chunk | None:
        with counters.busy("load"):
            return loader.next_chunk(stages.tokenizing)

    with loaded:
        while (chunk := await stages.threads.run("load", next_chunk)) is not None:
            counters.records_in = counters.before.records + loader.records
            await loaded.send(chunk, chunk.size)
    counters.records_total = counters.before.records + loader.records


async def _plan(
    stages: Stages, loaded: Queue[Chunk], batches: Queue[Batch], counters: Counters
) -> None:
    planner, loader = stages.planner, stages.loader

    def fills_a_batch() -> bool:
        with counters.busy("plan"):
            return planner.fills_a_batch()

    async def is_full() -> bool:
        if planner.is_full(counters.per_second, batches.starved_seconds):
            return True
        return not counters.per_second and await stages.threads.run("plan", fills_a_batch)

    async def hand_over(*, at_end: bool = False) -> None:
        cut = planner.cut(at_end=at_end)

        def next_batch() -> Batch | None:
            with counters.busy("plan"):
                return next(cut, None)

        while not loader.overdue:  # else what is left is for another time
            batch = await stages.threads.run("plan", next_batch)
            if batch is None:
                break
            await batches.send(batch)

    with batches:
        async for chunk in loaded:
            if loader.stopped.is_set():  # what has not been planned yet is left for another time
                continue
            planner.add(chunk)
            if await is_full():
                await hand_over()
        if not loader.stopped.is_set():
            await hand_over(at_end=True)


async def _compute(
    stages: Stages,
    batches: Queue[Batch],
    results: Queue[Result],
    counters: Counters,
    on_result: Callable[[Result], None],
) -> None:
    computing, budget = stages.computing, stages.planner.budget

    def compute(work: Callable[[], Sequence[Result]]) -> None:
        with counters.busy("compute") as clock:
            done = work()
            seconds = clock.seconds
            for result in done:
                on_result(result)
        for result in done:
            counters.count(result)
            budget.measured(result.work, seconds / len(done))
            in_loop(partial(results.send, result))

    def feed(batch: Batch) -> Sequence[Result]:
        done = computing.feed(batch)
        if batches.is_empty:  # nothing else to do: wait for the device
            done += computing.drain()
        return done

    def own_the_device() -> None:
        with owned_by_this_thread(computing.device):
            while True:
                try:
                    batch = in_loop(batches.receive)
                except anyio.EndOfStream:
                    break
                if stages.loader.overdue:  # left to the session that resumes the run
                    continue
                compute(partial(feed, batch))
            compute(computing.finish)

    with results:
        await stages.threads.run("compute", own_the_device)


async def _write(
    stages: Stages,
    results: Queue[Result],
    counters: Counters,
    on_rows: Callable[[Mapping[str, pa.Table]], None],
) -> None:
    writer, threads, turn = stages.writer, stages.threads, anyio.Lock()

    def add(result: Result) -> None:
        with counters.busy("write"):
            for rows in writer.add(result):
                on_rows(rows)

    def tick() -> None:
        with counters.busy("write"):
            writer.tick()

    def close() -> None:
        with counters.busy("write"):
            writer.close()

    async def close_parts_in_time() -> None:
        while True:
            await anyio.sleep(TICK_SECONDS)
            async with turn:
                if writer.is_due:
                    await threads.run("write", tick)

    async with anyio.create_task_group() as group:
        group.start_soon(close_parts_in_time)
        async for result in results:
            async with turn:
                await threads.run("write", partial(add, result))
            counters.written = writer.counts
        group.cancel_scope.cancel()
    await threads.run("write", close)
