"""One run from configuration to finished directory: load, stream, close, say how it went."""

import contextlib
import gc
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import anyio
from rich.console import Console

from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.concurrency.threads import finished_within, in_own_thread, in_thread
from streamer.device.settings import settings_for
from streamer.errors import cause_of
from streamer.monitoring.exporter import Exporter, exporting
from streamer.monitoring.library_warnings import LibraryWarnings
from streamer.monitoring.screen import Screen
from streamer.monitoring.status_reporter import Loading
from streamer.results.summary import Summary
from streamer.running.manifest import description_of
from streamer.running.prepare import Prepared
from streamer.running.resume import refuse_another_model
from streamer.running.session import Session, title_of
from streamer.running.shutdown import CLOSE_SECONDS, lock_released_after
from streamer.tables.metrics import FAMILIES, Family
from streamer.writing.directory import RunDirectory


async def run(
    prepared: Prepared, console: Console, families: Sequence[Family] = FAMILIES
) -> Summary:
    """Process all that was prepared and write it to its directory.

    :raises UsageError: model or SAEs are not to be had; nothing was written then.
    :raises RunFault: the run broke off; finished parts are kept.
    """
    async with lock_released_after(prepared.directory):
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
    async with lock_released_after(directory):
        warnings.send_to(directory.log)
        config, device = prepared.config, worker.model.device
        with (
            gc_frozen(),
            settings_for(device, deterministic=config.deterministic) as settings,
            Screen(console, config.progress) as screen,
        ):
            description["settings"] = settings
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
        worker = in_own_thread(lambda: load_worker(prepared.config, kind, families))
        gc.collect()  # else what loading left behind is kept while the run goes on
        return worker

    if prepared.directory is None:
        return await in_thread("loading", load)
    loading = Loading(prepared.out, title_of(prepared.config), prepared.counters)
    try:
        async with anyio.create_task_group() as beside:
            beside.start_soon(loading.keep_telling)
            worker = await in_thread("loading", load)
            beside.cancel_scope.cancel()
        _description(prepared, worker)
    except BaseException as error:
        cause = cause_of(error)
        await finished_within(CLOSE_SECONDS, "status", partial(loading.end, str(cause)))
        raise cause from None
    await finished_within(CLOSE_SECONDS, "status", loading.leave)
    return worker


@contextlib.contextmanager
def gc_frozen() -> Iterator[None]:
    """While inside, Python's collector leaves alone the objects that are there now: libraries and
    models have very many, and all threads wait while it looks through them."""
    if gc.get_freeze_count():  # the process has its own idea of that
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
