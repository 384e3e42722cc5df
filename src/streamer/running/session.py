"""One session of a run: opened, streamed, and closed or broken off, in the order of `run.py`."""

import contextlib
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

import anyio

from streamer.batches import Result
from streamer.computing.fault_isolation import FaultIsolation
from streamer.computing.starting_budget import budget_for
from streamer.computing.worker import Worker
from streamer.concurrency.threads import Threads, finished_within, in_thread
from streamer.config import RunConfig
from streamer.device.settings import Settings
from streamer.errors import RunFault, cause_of
from streamer.loading.tokenizing import Tokenizing
from streamer.monitoring.exporter import exposure
from streamer.monitoring.observer import Observer
from streamer.monitoring.status import State
from streamer.monitoring.status_reporter import StatusReporter
from streamer.planning.planner import Planner
from streamer.results.run import part_names
from streamer.results.summary import RowTotals, Summary
from streamer.running.manifest import description_of, origin_of
from streamer.running.notes import doubled_note, faint_note
from streamer.running.pipeline import Queues, Stages, stream
from streamer.running.prepare import Prepared
from streamer.running.resume import read_earlier
from streamer.running.shutdown import (
    CLOSE_SECONDS,
    close_as_it_is,
    close_deadline,
    drain_deadline,
    fault_of,
    state_after,
)
from streamer.running.watchdog import watch
from streamer.writing.commit import WrittenTable, tidy
from streamer.writing.directory import RunDirectory
from streamer.writing.writer import Writer

EARLIER_SECONDS = 10.0
"""A finished run waits at most so long for the numbers of earlier sessions in its summary."""


class Session:
    """A run from when its model and its directory are there."""

    def __init__(
        self,
        prepared: Prepared,
        worker: Worker,
        directory: RunDirectory,
        queues: Queues,
        observer: Observer,
        *,
        notes: Sequence[str],
    ) -> None:
        """`notes`: what the user should know of the records."""
        self.signals: list[int] = []
        """Those that came and stopped it."""
        self._prepared = prepared
        self._worker = worker
        self._directory = directory
        self._queues = queues
        self._observer = observer
        self._notes = (*worker.model.notes, *notes)
        self._log = prepared.log.write
        self._reporter = StatusReporter(prepared.status, directory.path, self._log, observer)
        self._threads = Threads()
        self._rows = RowTotals(worker.tables)
        self._earlier_parts: Mapping[str, Sequence[str]] = {}
        self._earlier_rows = RowTotals(worker.tables)
        self._earlier_is_read = anyio.Event()
        self._writer: Writer | None = None
        self._planner = planner_for(prepared.config, worker)
        self._topics: set[str] = set()
        self._state: State = "running"
        self._seconds = 0.0
        if not prepared.config.overlap:
            prepared.counters.turn = threading.Lock()

    def open(self, settings: Settings) -> None:
        """Write the manifest, with the process's `settings`, remove what a killed session left, and
        open the tables.

        :raises RunFault: the disk does not take it.
        """
        prepared, worker, directory = self._prepared, self._worker, self._directory
        directory.keep_notes(self._notes)
        directory.begin(**description_of(prepared, worker), settings=settings)
        started = {
            "row": prepared.checkpoint.row,
            "forward": worker.model.forward,
            "sharing": worker.packing.sharing,
            "removed": tidy(prepared.storage, self._rows.leading, prepared.names),
        }
        self._log("started", started)
        exposed = exposure(prepared.config)
        for note in (*self._notes, *([exposed] if exposed else [])):
            self._note(note)
        self._earlier_parts = {
            table: part_names(prepared.storage, table, prepared.names.shard)
            for table in self._rows.tables
        }
        self._writer = Writer(
            prepared.storage,
            prepared.config,
            [
                WrittenTable(table.name, worker.tables.rows[table.name].schema, table.leads)
                for table in worker.tables.tables
            ],
            on_part=self._log,
            begin=prepared.checkpoint,
            names=prepared.names,
            origin=origin_of(prepared, worker, directory.manifest.versions),
        )

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """While inside: report progress and status, and end the run if it stands still, or is not
        over in time after it was stopped.

        :raises RunFault: then.
        """
        prepared, reporter = self._prepared, self._reporter
        config, stopped = prepared.config, prepared.loader.stopped
        prepared.counters.start()
        with reporter.stderr_redirected(prepared.progress.owns_terminal):
            async with anyio.create_task_group() as beside:
                beside.start_soon(self._show_progress)
                beside.start_soon(reporter.keep_reporting, stopped.is_set)
                beside.start_soon(
                    watch, prepared.counters, config.stall_seconds, self._log, self._threads.leave
                )
                beside.start_soon(close_deadline, stopped, self._threads)
                beside.start_soon(self._read_earlier)
                yield
                beside.cancel_scope.cancel()

    async def stream(self) -> None:
        """Run every record through every stage.

        :raises RunFault: a stage broke.
        """
        prepared, worker, writer = self._prepared, self._worker, self._writer
        assert writer is not None
        loader, counters = prepared.loader, prepared.counters
        tokenizing = Tokenizing(
            worker.model.tokenizer,
            worker.bos_id,
            worker.model.context,
            prepared.config.too_long,
            worker.model.vocabulary,
        )
        computing = FaultIsolation(worker, self._log, partial(counters.beat, "compute"))
        stages = Stages(loader, tokenizing, self._planner, computing, writer, self._threads)
        async with drain_deadline(loader.stopped, self._threads):
            await stream(
                stages,
                self._queues,
                counters,
                self._take,
                self._rows.add,
            )
        self._seconds = counters.seconds

    async def close(self) -> None:
        """Finish the last parts and write into the manifest how the run ended.

        :raises RunFault: the disk does not take it.
        """
        await self._threads.run("write", self._close)
        if self._state == "finished":
            with anyio.move_on_after(EARLIER_SECONDS):
                await self._earlier_is_read.wait()
        if self._prepared.checkpoint.row and not self._earlier_is_read.is_set():
            self._note("the summary's means and reasons are of this session alone")

    def _close(self) -> None:
        assert self._writer is not None
        self._writer.close()  # its stage has not, if what was in flight was dropped
        self._reporter.incidents.summarize()
        self._state = "stopped" if self._prepared.loader.stopped.is_set() else "finished"
        spent = self._prepared.counters.busy_so_far().items()
        self._directory.close(
            self._state,
            counts=self._writer.committed,
            seconds=round(self._seconds, 3),
            max_tokens=self._planner.budget.tokens,
            stage_seconds={stage: round(busy, 3) for stage, busy in spent},
        )

    async def break_off(self, error: BaseException) -> BaseException:
        """Close the run that `error` broke off, keeping what is finished; what to raise for it."""
        self._prepared.loader.stop()  # nothing is waited for any more
        cause = cause_of(error)
        await close_as_it_is(
            self._directory,
            self._writer,
            self._reporter,
            self._threads,
            state=state_after(cause, self.signals),
            cause=cause,
            hurried=bool(self.signals),
        )
        return fault_of(cause, str(self._directory.path))

    async def summary(self) -> Summary:
        """Write the last status; how the run went."""
        await finished_within(CLOSE_SECONDS, "status", partial(self._reporter.end, self._state))
        self._earlier_rows.merge(self._rows)
        return Summary(
            path=self._directory.path,
            signal=self.signals[0] if self.signals and self._state == "stopped" else None,
            counters=self._prepared.counters,
            seconds=self._seconds,
            memory=self._observer.look().memory,
            rows=self._earlier_rows,
        )

    async def _read_earlier(self) -> None:
        """Read what earlier sessions wrote, for the summary. Beside the stages: it may be much."""
        try:
            totals = RowTotals(self._worker.tables)
            read = partial(read_earlier, totals, self._prepared.storage, self._earlier_parts)
            self._earlier_rows = await in_thread("earlier", read)
        except RunFault as fault:
            self._note(f"the summary leaves out earlier sessions: {fault}")
        self._earlier_is_read.set()

    def _take(self, result: Result) -> None:
        """Look at the result of a batch, in the compute stage's thread."""
        self._reporter.incidents.take(result)
        passages = len(result.records) * len(self._worker.passages)
        for note in self._worker.caveats:
            self._caveat(note, topic=note)
        doubled = self._prepared.loader.doubled
        if 2 * result.work.faint > passages:
            note = faint_note(self._prepared.config, result.work.faint, passages)
            self._caveat(note, topic="faint noise")
        if doubled is not None:
            self._caveat(doubled_note(doubled), topic="doubled blank")

    def _caveat(self, note: str, *, topic: str) -> None:
        """Tell the user what is to be known of the numbers, once a topic; the manifest keeps it."""
        if topic not in self._topics:
            self._topics.add(topic)
            self._directory.keep_notes([note], at_once=True)
            self._note(note)

    def _note(self, note: str) -> None:
        self._log("note", {"note": note})
        self._prepared.progress.print(f"note: {note}")

    async def _show_progress(self) -> None:
        progress = self._prepared.progress
        progress.begin(self._prepared.title)
        try:
            while True:
                progress.show(self._observer.look())
                await anyio.sleep(progress.seconds)
        finally:
            progress.end(self._observer.look())


def planner_for(config: RunConfig, worker: Worker) -> Planner:
    """What cuts the batches of a run for `worker`."""
    return Planner(
        worker.packing,
        budget_for(config, worker),
        config.window_records,
        config.prefetch_bytes // 4,
        whole_windows=config.deterministic,
    )
