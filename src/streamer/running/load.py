"""Loading the worker, and what is done about the process's memory then."""

import contextlib
import gc
from collections.abc import Iterator
from functools import partial

import anyio

from streamer.computing.load import load_worker
from streamer.computing.starting_budget import refuse_too_little_memory
from streamer.computing.worker import Worker
from streamer.concurrency.threads import finished_within, in_own_thread, in_thread
from streamer.errors import cause_of
from streamer.monitoring.observer import Observer
from streamer.monitoring.status_reporter import LoadingStatus
from streamer.running.manifest import columns_by_table, model_entry, sae_entries
from streamer.running.prepare import Prepared
from streamer.running.resume import refuse_another_model, refuse_other_columns
from streamer.running.shutdown import CLOSE_SECONDS


async def load(prepared: Prepared, observer: Observer) -> Worker:
    """The worker, with the model and SAEs on its device. A run that is resumed has the status
    "loading" meanwhile.

    :raises UsageError: the device is missing, the model or an SAE cannot be loaded, or is not that
        of the run that is to be resumed.
    """

    def load_and_collect() -> Worker:
        kind = prepared.loader.fields.kind
        worker = in_own_thread(
            lambda: load_worker(prepared.config, kind, prepared.tables, only=begun_with(prepared))
        )
        gc.collect()  # else `gc_frozen` would keep what loading left behind
        return worker

    if prepared.directory is None:
        worker = await in_thread("loading", load_and_collect)
        refuse_worker(prepared, worker)
        return worker
    status = LoadingStatus(prepared.status, observer)
    try:
        async with anyio.create_task_group() as beside:
            beside.start_soon(status.keep_reporting)
            worker = await in_thread("loading", load_and_collect)
            beside.cancel_scope.cancel()
        refuse_worker(prepared, worker)
    except BaseException as error:
        cause = cause_of(error)
        await finished_within(CLOSE_SECONDS, "status", partial(status.fail, str(cause)))
        raise cause from None
    await finished_within(CLOSE_SECONDS, "status", status.leave)
    return worker


def begun_with(prepared: Prepared) -> tuple[str, ...] | None:
    """The measurements of the rows that a run has already, which the others are to have, too: a
    later version may measure more. None if it has none."""
    earlier = prepared.directory.earlier if prepared.directory is not None else None
    return earlier.columns if earlier is not None and prepared.checkpoint.number else None


def refuse_worker(prepared: Prepared, worker: Worker) -> None:
    """Return if `worker` may do this run.

    :raises UsageError: the run is to be resumed, and was begun with another model, SAEs or columns;
        or its batches may not fit the memory.
    """
    refuse_too_little_memory(prepared.config, worker)
    if prepared.directory is not None and prepared.directory.earlier is not None:
        earlier, where = prepared.directory.earlier, prepared.storage.location
        refuse_another_model(where, earlier, model_entry(worker), sae_entries(worker))
        measured = [column.name for column in worker.columns]
        columns = columns_by_table(worker)
        refuse_other_columns(where, earlier, prepared.checkpoint, columns, measured)


@contextlib.contextmanager
def gc_frozen() -> Iterator[None]:
    """While inside, Python's collector passes over the objects that exist now: libraries and models
    have millions, and all threads would wait each time it looked through them."""
    if gc.get_freeze_count():  # the program has frozen some itself, and unfreezing takes no subset
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
