"""One run from configuration to finished directory: load, stream, close, say how it went."""

import gc
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
from rich.console import Console

from streamer.analysis import FAMILIES, Family
from streamer.closing import CLOSE_SECONDS, left_at_the_end
from streamer.description import description_of
from streamer.errors import cause_of
from streamer.heap import objects_kept
from streamer.monitoring.exporter import Exporter, exporting
from streamer.monitoring.outside import Loading
from streamer.monitoring.screen import Screen
from streamer.monitoring.summary import Summary
from streamer.monitoring.warnings import LibraryWarnings
from streamer.preparation import Prepared
from streamer.resuming import refuse_another_model
from streamer.session import Session, title_of
from streamer.threads import apart, aside, within
from streamer.worker import Worker
from streamer.worker_loading import load_worker
from streamer.writing.directory import RunDirectory


async def run(
    prepared: Prepared, console: Console, families: Sequence[Family] = FAMILIES
) -> Summary:
    """Process all that was prepared and write it to its directory.

    :raises UsageError: model or SAEs are not to be had; nothing was written then.
    :raises RunFault: the run broke off; finished parts are kept.
    """
    async with left_at_the_end(prepared.directory):
        with LibraryWarnings() as warnings, exporting(prepared.config) as exporter:
            worker = await _load(prepared, families)
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
    description = _description(prepared, worker)
    directory = prepared.directory or RunDirectory.make(prepared.out)
    async with left_at_the_end(directory):
        warnings.send_to(directory.log)
        with objects_kept(), Screen(console, prepared.config.progress) as screen:
            session = Session(prepared, worker, directory, screen)
            if exporter is not None:
                exporter.observe(session.observer)
            return await session.run(description)


def _description(prepared: Prepared, worker: Worker) -> dict[str, Any]:
    """What the manifest will say.

    :raises UsageError: it is another model than that of the run that is to go on.
    """
    said = description_of(prepared, worker)
    if prepared.directory is not None:
        earlier = prepared.directory.earlier
        refuse_another_model(prepared.out, earlier, said["model"], said["saes"])
    return said


async def _load(prepared: Prepared, families: Sequence[Family]) -> Worker:
    """The worker. A run that goes on tells meanwhile that it is loaded."""

    def load() -> Worker:
        kind = prepared.loader.fields.kind
        worker = apart(lambda: load_worker(prepared.config, kind, families))
        gc.collect()  # else what loading left behind is kept while the run goes on
        return worker

    if prepared.directory is None:
        return await aside("loading", load)
    loading = Loading(prepared.out, title_of(prepared.config), prepared.counters)
    try:
        async with anyio.create_task_group() as beside:
            beside.start_soon(loading.keep_telling)
            worker = await aside("loading", load)
            beside.cancel_scope.cancel()
        _description(prepared, worker)
    except BaseException as error:
        cause = cause_of(error)
        await within(CLOSE_SECONDS, "status", partial(loading.end, str(cause)))
        raise cause from None
    await within(CLOSE_SECONDS, "status", loading.leave)
    return worker
