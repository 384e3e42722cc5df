"""One run from configuration to finished directory: load, stream, close, say how it went."""

import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
from anyio import to_thread
from rich.console import Console

from streamer.analysis import FAMILIES, Family
from streamer.batching.planner import Planner
from streamer.batching.sizing import budget_for
from streamer.errors import RunFault, StreamerError, one_line
from streamer.loading.tokenizing import Tokenizing
from streamer.monitoring.display import show
from streamer.monitoring.snapshot import Observer
from streamer.monitoring.summary import DomainMeans, Summary
from streamer.monitoring.warnings import LibraryWarnings
from streamer.monitoring.watchdog import watch
from streamer.pipeline import Queues, Stages, stream
from streamer.preparation import Prepared
from streamer.threads import Threads
from streamer.worker import Worker
from streamer.worker_loading import load_worker
from streamer.writing.directory import RunDirectory
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
    with LibraryWarnings() as warnings:
        worker = await to_thread.run_sync(
            load_worker, prepared.config, prepared.loader.fields.kind, families
        )
        return await run_loaded(prepared, worker, console, warnings)


async def run_loaded(
    prepared: Prepared, worker: Worker, console: Console, warnings: LibraryWarnings
) -> Summary:
    """The same with a worker that is loaded already.

    :raises RunFault: the run broke off; finished parts are kept.
    """
    schema = metrics_schema(prepared.config.carry, worker.passages, worker.columns)
    directory = RunDirectory(prepared.out)
    warnings.send_to(directory.log)
    directory.describe(**_description(prepared, worker))
    how = {"forward": worker.model.forward, "sharing": worker.packing.sharing}
    directory.log("started", how)
    for note in worker.model.notes:
        directory.log("note", {"note": note})
        if prepared.config.progress != "none":
            console.print(f"note: {note}", highlight=False, markup=False)
    writer = Writer(directory.path, prepared.config, schema, worker.columns, directory.log)
    return await _stream(prepared, worker, writer, directory, console)


async def _stream(
    prepared: Prepared, worker: Worker, writer: Writer, directory: RunDirectory, console: Console
) -> Summary:
    config, counters, loader = prepared.config, prepared.counters, prepared.loader
    model = worker.model
    how = Tokenizing(model.tokenizer, worker.bos_id, model.context, config.too_long)
    planner = Planner(
        worker.packing,
        budget_for(config, model),
        config.window,
        config.prefetch_bytes // 4,
        whole_windows=config.deterministic,
    )
    if not config.overlap:
        counters.turn = threading.Lock()
    queues = Queues.bounded(config.prefetch_records, config.prefetch_bytes)
    observer = Observer(counters, (queues.loaded, queues.batches, queues.results), model.device)
    means, stopped = DomainMeans(), list[int]()
    title = f"streamer · {config.model} · layers {', '.join(map(str, config.layers))}"
    threads = Threads()
    counters.start()
    try:
        async with anyio.create_task_group() as beside:
            beside.start_soon(_stop_on_signal, prepared, stopped, console)
            beside.start_soon(show, observer, config.progress, console, title)
            beside.start_soon(watch, counters, config.stall_seconds, directory.log, threads.leave)
            stages = Stages(loader, how, planner, worker, writer)
            with worker.running(directory.log, partial(counters.beat, "compute")):
                await stream(stages, queues, counters, threads, means.add)
            beside.cancel_scope.cancel()
    except BaseException as error:
        cause = _cause(error)

        def close() -> None:
            if "write" not in threads.left:  # else it may be at it, and a resume finds what is left
                with contextlib.suppress(Exception):  # the cause is what matters
                    writer.abandon()
            with contextlib.suppress(Exception):
                name = type(cause).__name__
                directory.close("failed", cause=f"{name}: {cause}", counts=counters.totals())

        with anyio.move_on_after(CLOSE_SECONDS, shield=True):  # the disk may be what hangs
            await to_thread.run_sync(close, abandon_on_cancel=True)
        if isinstance(cause, StreamerError) or not isinstance(cause, Exception):
            raise cause from error
        raise RunFault(
            f"the run broke off: {one_line(cause)}. Finished parts are kept in {directory.path}: "
            f"run the same command again to go on."
        ) from error
    seconds = counters.seconds
    directory.close(
        "stopped" if stopped else "finished",
        counts=counters.totals(),
        seconds=round(seconds, 3),
        max_tokens=planner.budget.tokens,
        stage_seconds={stage: round(s, 3) for stage, s in counters.busy_so_far().items()},
    )
    return Summary(
        path=directory.path,
        signal=stopped[0] if stopped else None,
        counters=counters,
        seconds=seconds,
        memory=observer.look().memory,
        domains=means,
        reasons=writer.reasons.most_common(),
    )


async def _stop_on_signal(prepared: Prepared, stopped: list[int], console: Console) -> None:
    """The first SIGINT or SIGTERM ends reading, and what is in flight drains; a second ends all."""

    def say(text: str) -> None:
        with contextlib.suppress(OSError, SystemExit):  # rich exits on a closed pipe
            if prepared.config.progress != "none":
                console.print(text, highlight=False)

    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread is told of signals: a notebook runs us in another
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            if stopped:
                say("stopped at once: finished parts are kept, what was in flight is lost")
                console.show_cursor(True)
                os._exit(128 + number)
            stopped.append(number)
            prepared.loader.stopped.set()
            say("stopping: what is in flight will be finished; a second signal drops it")


def _cause(error: BaseException) -> BaseException:
    """The first error behind groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _description(prepared: Prepared, worker: Worker) -> dict[str, Any]:
    """What the manifest says of a run before it starts."""
    model = worker.model
    return {
        "config": prepared.config.model_dump(mode="json"),
        "kind": prepared.loader.fields.kind,
        "device": str(model.device),
        "model": {
            "name": model.identity.name,
            "files": model.identity.fingerprint,
            "revision": model.identity.revision,
            "d_model": model.d_model,
            "n_layers": model.n_layers,
            "context": model.context,
            "forward": model.forward,
            "dtype": str(model.dtype).removeprefix("torch."),
            "autocast": str(model.autocast).removeprefix("torch.") if model.autocast else None,
            "sharing": worker.packing.sharing,
            "bos": worker.bos_id,
        },
        "saes": [
            {
                "layer": sae.layer,
                "location": sae.location,
                "architecture": sae.sae.cfg.architecture(),
                "d_sae": sae.W_dec.shape[0],
                "files": sae.fingerprint,
                "revision": sae.revision,
            }
            for sae in worker.saes
        ],
        "inputs": [
            {"name": source.name, "bytes": source.size, "modified": source.modified}
            for source in prepared.sources
        ],
        "columns": [column.name for column in worker.columns],
    }
