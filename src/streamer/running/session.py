"""One session of a run: what it says at its beginning, its stages and who watches them, its end."""

import contextlib
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio

from streamer.computing.starting_budget import budget_for
from streamer.computing.worker import Worker
from streamer.concurrency.retry import RetryPolicy
from streamer.concurrency.threads import Threads, finished_within
from streamer.config import RunConfig
from streamer.errors import cause_of
from streamer.loading.tokenizing import Tokenizing
from streamer.monitoring.display import is_live, show
from streamer.monitoring.observer import Observer
from streamer.monitoring.screen import Screen
from streamer.monitoring.status import State
from streamer.monitoring.status_reporter import StatusReporter
from streamer.monitoring.waiting_notice import WaitingNotice
from streamer.planning.planner import Planner
from streamer.results.run import Run
from streamer.results.summary import DomainMeans, Summary
from streamer.running.pipeline import Queues, Stages, stream
from streamer.running.prepare import Prepared
from streamer.running.resume import reload
from streamer.running.shutdown import (
    CLOSE_SECONDS,
    close_as_it_is,
    close_deadline,
    drain_deadline,
    fault_of,
    state_after,
)
from streamer.running.signals import stop_on_signal
from streamer.running.watchdog import watch
from streamer.tables.metrics.table import metrics_schema
from streamer.writing.commit import tidy
from streamer.writing.directory import RunDirectory
from streamer.writing.storage.local import Disk
from streamer.writing.writer import Writer


class Session:
    """A run from when its model and its directory are there."""

    def __init__(
        self, prepared: Prepared, worker: Worker, directory: RunDirectory, screen: Screen
    ) -> None:
        config, counters = prepared.config, prepared.counters
        if not config.overlap:
            counters.turn = threading.Lock()
        self._prepared = prepared
        self._worker = worker
        self._directory = directory
        self._screen = screen
        self._title = title_of(config)
        self._queues = Queues.bounded(config.prefetch_records, config.prefetch_bytes)
        queues = (self._queues.loaded, self._queues.batches, self._queues.results)
        self.observer = Observer(counters, queues, worker.model.device)
        self._outside = StatusReporter(directory.path, directory.log, self.observer, self._title)
        self._threads = Threads()
        self._means = DomainMeans()

    async def run(self, description: Mapping[str, Any]) -> Summary:
        """Say in the directory what is to come, do it, and say how it ended.

        :raises RunFault: the run broke off; finished parts are kept.
        """
        writer, signals, loader = None, list[int](), self._prepared.loader
        with contextlib.ExitStack() as stack:
            try:
                writer = self._begin(description)
                stack.enter_context(stop_on_signal(loader.stop, signals, self._screen))
                ended, seconds = await self._stream(writer)
            except BaseException as error:
                loader.stop()  # nothing is waited for any more
                cause = cause_of(error)
                state = state_after(cause, signals)
                await close_as_it_is(
                    self._directory,
                    writer,
                    self._outside,
                    self._threads,
                    state=state,
                    cause=cause,
                    hurried=bool(signals),
                )
                fault = fault_of(cause, self._directory.path)
                raise fault from (fault.__cause__ if fault is error else error)
            await finished_within(CLOSE_SECONDS, "status", partial(self._outside.end, ended))
        return Summary(
            path=self._directory.path,
            signal=signals[0] if signals and ended == "stopped" else None,
            counters=self._prepared.counters,
            seconds=seconds,
            memory=self.observer.look().memory,
            domains=self._means,
            reasons=writer.reasons.most_common(),
        )

    def _begin(self, description: Mapping[str, Any]) -> Writer:
        """Say in the directory what is to come; its writer."""
        prepared, worker, directory = self._prepared, self._worker, self._directory
        directory.describe(**description)
        directory.log(
            "started",
            {
                "row": prepared.begin.row,
                "forward": worker.model.forward,
                "sharing": worker.packing.sharing,
                "removed": [str(path.relative_to(prepared.out)) for path in tidy(prepared.out)],
            },
        )
        for note in worker.model.notes:
            directory.log("note", {"note": note})
            self._screen.say(f"note: {note}")
        self._be_patient()
        writer = Writer(
            prepared.out,
            prepared.config,
            metrics_schema(prepared.config.carry, worker.passages, worker.columns),
            columns=worker.columns,
            on_part=directory.log,
            begin=prepared.begin,
            disk=directory.disk,
        )
        reload(Run(directory.path, directory.manifest), self._means, writer.reasons)
        return writer

    def _be_patient(self) -> None:
        """From now on, let reading and writing tell what they wait for; writing waits for room."""
        prepared, log, say = self._prepared, self._directory.log, self._screen.say
        counters = prepared.counters
        prepared.loader.patience.heard_by(log, WaitingNotice(counters, say))
        writing = RetryPolicy(prepared.loader.stopped, log, WaitingNotice(counters, say))
        self._directory.disk = Disk(prepared.config.disk_wait_seconds, writing)

    async def _stream(self, writer: Writer) -> tuple[State, float]:
        """Run every record through every stage and close the directory; how it ended, and when."""
        prepared, worker, threads, outside = (
            self._prepared,
            self._worker,
            self._threads,
            self._outside,
        )
        config, counters, loader = prepared.config, prepared.counters, prepared.loader
        planner = _planner(config, worker)
        how = Tokenizing(
            worker.model.tokenizer, worker.bos_id, worker.model.context, config.too_long
        )
        stages = Stages(loader, how, planner, worker, writer, threads)
        log = self._directory.log
        counters.start()
        with outside.listening(is_live(self._screen)):
            async with anyio.create_task_group() as beside:
                beside.start_soon(show, self.observer, self._screen, self._title)
                beside.start_soon(outside.keep_telling, loader.stopped.is_set)
                beside.start_soon(watch, counters, config.stall_seconds, log, threads.leave)
                beside.start_soon(close_deadline, loader.stopped, threads)
                async with drain_deadline(loader.stopped, threads):
                    with worker.running(log, partial(counters.beat, "compute")):
                        await stream(
                            stages, self._queues, counters, outside.incidents.take, self._means.add
                        )
                seconds = counters.seconds
                close = partial(self._close, writer, seconds, planner.budget.tokens)
                ended = await threads.run("write", close)
                beside.cancel_scope.cancel()
        return ended, seconds

    def _close(self, writer: Writer, seconds: float, max_tokens: int) -> State:
        """Close the directory in order; as what."""
        writer.close()  # its stage has not, if what was in flight was dropped
        self._outside.incidents.summarize()
        ended: State = "stopped" if self._prepared.loader.stopped.is_set() else "finished"
        spent = self._prepared.counters.busy_so_far().items()
        self._directory.close(
            ended,
            counts=writer.committed,
            seconds=round(seconds, 3),
            max_tokens=max_tokens,
            stage_seconds={stage: round(busy, 3) for stage, busy in spent},
        )
        return ended


def _planner(config: RunConfig, worker: Worker) -> Planner:
    return Planner(
        worker.packing,
        budget_for(config, worker.model),
        config.window_records,
        config.prefetch_bytes // 4,
        whole_windows=config.deterministic,
    )


def title_of(config: RunConfig) -> str:
    """What is written over its display."""
    return f"streamer · {config.model} · layers {', '.join(map(str, config.layers))}"
