"""One run from configuration to finished directory: load, stream, close, say how it went."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import anyio
from anyio import to_thread
from rich.console import Console

from streamer.analysis import FAMILIES, Family
from streamer.batching.planner import Planner
from streamer.description import description_of
from streamer.errors import RunFault, StreamerError, one_line
from streamer.loading.tokenizing import Tokenizing
from streamer.monitoring.display import is_live, show
from streamer.monitoring.exporter import Exporter, exporting
from streamer.monitoring.observer import Observer
from streamer.monitoring.outside import Outside
from streamer.monitoring.status import State
from streamer.monitoring.summary import DomainMeans, Summary
from streamer.monitoring.trouble import Trouble
from streamer.monitoring.warnings import LibraryWarnings
from streamer.monitoring.watchdog import watch
from streamer.patience import Patience
from streamer.pipeline import Queues, Stages, stream
from streamer.preparation import Prepared
from streamer.resuming import refuse_another_model, reload
from streamer.runs import Run
from streamer.signals import stop_on_signal
from streamer.sizing import budget_for
from streamer.threads import Threads
from streamer.worker import Worker
from streamer.worker_loading import load_worker
from streamer.writing.commit import tidy
from streamer.writing.directory import RunDirectory
from streamer.writing.patient import Disk, DiskFull
from streamer.writing.schema import metrics_schema
from streamer.writing.writer import Writer

CLOSE_SECONDS = 15.0
"""For leaving a run directory that broke off in order."""


async def run(
    prepared: Prepared, console: Console, families: Sequence[Family] = FAMILIES
) -> Summary:
    """Process all that was prepared and write it to its directory.

    :raises UsageError: model or SAEs are not to be had; nothing was written then.
    :raises RunFault: the run broke off; finished parts are kept.
    """
    with (
        _left_at_the_end(prepared.directory),
        LibraryWarnings() as warnings,
        exporting(prepared.config) as exporter,
    ):
        worker = await to_thread.run_sync(
            load_worker, prepared.config, prepared.loader.fields.kind, families
        )
        return await run_loaded(prepared, worker, console, warnings, exporter)


async def run_loaded(
    prepared: Prepared,
    worker: Worker,
    console: Console,
    warnings: LibraryWarnings,
    exporter: Exporter | None = None,
) -> Summary:
    """The same with a worker that is loaded already.

    :raises RunFault: the run broke off; finished parts are kept.
    """
    out = prepared.out
    description = description_of(prepared, worker)
    directory = prepared.directory
    if directory is None:
        directory = RunDirectory.make(out)
    else:
        refuse_another_model(out, directory.earlier, description["model"], description["saes"])
    with _left_at_the_end(directory):
        writer = _begin(prepared, worker, description, directory, console)
        warnings.send_to(directory.log)
        return await _stream(prepared, worker, writer, directory, console, exporter=exporter)


@contextlib.contextmanager
def _left_at_the_end(directory: RunDirectory | None) -> Iterator[None]:
    """However it ends, another may write to it then."""
    try:
        yield
    finally:
        if directory is not None:
            directory.leave()


def _begin(
    prepared: Prepared,
    worker: Worker,
    description: Mapping[str, Any],
    directory: RunDirectory,
    console: Console,
) -> Writer:
    """Say in the directory what is to come; its writer."""
    config, out = prepared.config, prepared.out
    directory.describe(**description)
    directory.log(
        "started",
        {
            "row": prepared.begin.row,
            "forward": worker.model.forward,
            "sharing": worker.packing.sharing,
            "removed": [str(path.relative_to(out)) for path in tidy(out)],
        },
    )
    for note in worker.model.notes:
        directory.log("note", {"note": note})
        if config.progress != "none":
            console.print(f"note: {note}", highlight=False, markup=False)
    say = functools.partial(_say, prepared, console)
    _be_patient(prepared, directory, say)
    schema = metrics_schema(config.carry, worker.passages, worker.columns)
    return Writer(
        out,
        config,
        schema,
        columns=worker.columns,
        on_part=directory.log,
        begin=prepared.begin,
        disk=directory.disk,
    )


async def _stream(
    prepared: Prepared,
    worker: Worker,
    writer: Writer,
    directory: RunDirectory,
    console: Console,
    *,
    exporter: Exporter | None,
) -> Summary:
    config, counters, loader = prepared.config, prepared.counters, prepared.loader
    model = worker.model
    how = Tokenizing(model.tokenizer, worker.bos_id, model.context, config.too_long)
    planner = Planner(
        worker.packing,
        budget_for(config, model),
        config.window_records,
        config.prefetch_bytes // 4,
        whole_windows=config.deterministic,
    )
    if not config.overlap:
        counters.turn = threading.Lock()
    queues = Queues.bounded(config.prefetch_records, config.prefetch_bytes)
    observer = Observer(counters, (queues.loaded, queues.batches, queues.results), model.device)
    means, stopped = DomainMeans(), list[int]()
    reload(Run(directory.path, directory.manifest), means, writer.reasons)
    title = f"streamer · {config.model} · layers {', '.join(map(str, config.layers))}"
    outside = Outside(directory.path, directory.log, observer, title)
    if exporter is not None:
        exporter.observe(observer)
    threads = Threads()
    counters.start()
    try:
        with outside.listening(is_live(config.progress, console)):
            async with anyio.create_task_group() as beside:
                say = functools.partial(_say, prepared, console)
                beside.start_soon(stop_on_signal, loader.stop, stopped, console, say)
                beside.start_soon(show, observer, config.progress, console, title)
                beside.start_soon(outside.keep_telling, loader.stopped.is_set)
                beside.start_soon(
                    watch, counters, config.stall_seconds, directory.log, threads.leave
                )
                stages = Stages(loader, how, planner, worker, writer, threads)
                with worker.running(directory.log, functools.partial(counters.beat, "compute")):
                    await stream(stages, queues, counters, outside.incidents.take, means.add)
                outside.incidents.summarize()
                seconds = counters.seconds
                spent = counters.busy_so_far().items()
                close = functools.partial(
                    directory.close,
                    counts=writer.committed,
                    seconds=round(seconds, 3),
                    max_tokens=planner.budget.tokens,
                    stage_seconds={stage: round(busy, 3) for stage, busy in spent},
                )
                ended: State = "stopped" if loader.stopped.is_set() else "finished"
                # in a thread, for a signal must be heard while it waits for room
                await to_thread.run_sync(close, ended)
                beside.cancel_scope.cancel()
    except BaseException as error:
        loader.stop()  # nothing is waited for any more
        cause = _cause(error)
        status: State = "failed"
        if stopped and isinstance(cause, RunFault) and isinstance(cause.__cause__, DiskFull):
            status, cause.exit_code = "stopped", 128 + stopped[0]  # before there was room
        await _close_as_it_is(directory, writer, threads, status, cause)
        outside.end(status, f"{type(cause).__name__}: {cause}")
        if isinstance(cause, StreamerError) or not isinstance(cause, Exception):
            raise cause from error
        raise RunFault(
            f"the run broke off: {one_line(cause)}. Finished parts are kept in {directory.path}: "
            f"resume the run to go on."
        ) from error
    outside.end(ended)
    return Summary(
        path=directory.path,
        signal=stopped[0] if stopped and ended == "stopped" else None,
        counters=counters,
        seconds=seconds,
        memory=observer.look().memory,
        domains=means,
        reasons=writer.reasons.most_common(),
    )


async def _close_as_it_is(
    directory: RunDirectory,
    writer: Writer,
    threads: Threads,
    status: State,
    cause: BaseException,
) -> None:
    """Leave what is finished, and the cause in the manifest, if the disk allows it."""

    def close() -> None:
        with contextlib.suppress(Exception):  # the cause is what matters
            if "write" not in threads.left:  # else it may be at it
                writer.abandon()
        with contextlib.suppress(Exception):
            told = f"{type(cause).__name__}: {cause}"
            directory.close(status, cause=told, counts=writer.committed)

    with anyio.move_on_after(CLOSE_SECONDS, shield=True):  # the disk may be what hangs
        await to_thread.run_sync(close, abandon_on_cancel=True)


def _say(prepared: Prepared, console: Console, text: str) -> None:
    with contextlib.suppress(OSError, SystemExit):  # rich exits on a closed pipe
        if prepared.config.progress != "none":
            console.print(text, highlight=False, markup=False, soft_wrap=True)


def _be_patient(prepared: Prepared, directory: RunDirectory, say: Callable[[str], None]) -> None:
    """From now on, let reading and writing tell what they wait for, and writing wait for room."""
    counters = prepared.counters
    prepared.loader.patience.heard_by(directory.log, Trouble(counters, say))
    writing = Patience(prepared.loader.stopped, directory.log, Trouble(counters, say))
    directory.disk = Disk(prepared.config.disk_wait_seconds, writing)


def _cause(error: BaseException) -> BaseException:
    """The first error behind groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
