"""One run from start to end, in this order:

prepare   `prepare.py`   find the inputs, look at the first records, check every path
load      `load.py`      the model and the SAEs onto the device, and look at the first tokens
open      `session.py`   the run directory: lock, log, manifest, what a kill left is removed
stream    `pipeline.py`  every record through every stage
close     `session.py`   the last parts, the manifest and the status, or why the run broke off

A command, or `streamer.run`, prepares; this file does the rest. Each part is handed what it reports
to when it is made: the event log, the progress, the observer.
"""

from contextlib import ExitStack
from functools import partial

from streamer.computing.worker import Worker
from streamer.concurrency.threads import in_thread
from streamer.device.pick import pick_device
from streamer.device.settings import settings_for
from streamer.loading.first_look import doubts
from streamer.monitoring.exporter import exporting
from streamer.monitoring.library_warnings import LibraryWarnings
from streamer.monitoring.observer import Observer
from streamer.results.summary import Summary
from streamer.running.load import gc_frozen, load, refuse_worker
from streamer.running.pipeline import Queues
from streamer.running.prepare import Prepared
from streamer.running.session import Session
from streamer.running.shutdown import lock_released_after
from streamer.running.signals import stop_on_signal
from streamer.writing.directory import RunDirectory


async def run(prepared: Prepared, worker: Worker | None = None) -> Summary:
    """Load the model, unless a `worker` has it already, process all that was prepared, and write it
    to the run directory.

    :raises UsageError: the model or an SAE cannot be loaded, or is not that which the run was begun
        with; nothing was written then.
    :raises RunFault: the run broke off; finished parts are kept.
    """
    config = prepared.config
    async with lock_released_after(prepared.directory):
        queues = Queues.bounded(config.prefetch_records, config.prefetch_bytes)
        device = pick_device(config.device)[0] if worker is None else worker.model.device
        observer = Observer(prepared.counters, queues.all, device)
        with LibraryWarnings(prepared.log.write), exporting(config, observer):
            if worker is None:
                worker = await load(prepared, observer)
            else:
                refuse_worker(prepared, worker)
            return await _open_stream_close(prepared, worker, queues, observer)


async def _open_stream_close(
    prepared: Prepared, worker: Worker, queues: Queues, observer: Observer
) -> Summary:
    notes = await in_thread("loading", partial(_first_look, prepared, worker))
    directory = prepared.directory or RunDirectory.make(
        prepared.storage, prepared.log, prepared.names
    )
    async with lock_released_after(directory):
        session = Session(prepared, worker, directory, queues, observer, notes=notes)
        config, device = prepared.config, worker.model.device
        with (
            gc_frozen(),
            settings_for(device, deterministic=config.deterministic) as settings,
            ExitStack() as until_closed,
        ):
            try:
                session.open(settings)
                until_closed.enter_context(
                    stop_on_signal(prepared.loader.stop, session.signals, prepared.progress)
                )
                async with session.watched():
                    await session.stream()
                    await session.close()
            except BaseException as error:
                fault = await session.break_off(error)
                raise fault from (fault.__cause__ if fault is error else error)
            return await session.summary()


def _first_look(prepared: Prepared, worker: Worker) -> list[str]:
    """What the user should know of the records, told when the run begins.

    :raises UsageError: their tokens say nothing about them.
    """
    if prepared.directory is not None:
        return []
    return doubts(prepared.loader.first_records(), worker.model.tokenizer)
