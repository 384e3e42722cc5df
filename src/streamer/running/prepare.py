"""What can be settled before the model is loaded, so that most mistakes are reported at once."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamer.computing.model.find import model_path
from streamer.computing.sae.find import sae_locations
from streamer.concurrency.retry import RetryPolicy
from streamer.config import RunConfig
from streamer.loading.follow.follower import check_paths
from streamer.loading.identity import identity
from streamer.loading.loader import Loader
from streamer.loading.sources import Source, expand
from streamer.monitoring.counters import Counters
from streamer.monitoring.progress import SILENT, Progress
from streamer.monitoring.waiting_notice import WaitingNotice
from streamer.results.run import open_run
from streamer.running.resume import refuse_changes, refuse_other_tables
from streamer.tables import TABLES, Table, leading
from streamer.writing.commit import Checkpoint, read_checkpoint
from streamer.writing.directory import RunDirectory
from streamer.writing.event_log import EventLog
from streamer.writing.storage.base import Storage
from streamer.writing.storage.local import LocalStorage
from streamer.writing.storage.new_folder import check_free, default_path, is_run, unused
from streamer.writing.storage.room import WaitForRoom


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready to load its model."""

    config: RunConfig
    out: Path
    inputs: list[dict[str, Any]]
    """How each is recognized when the run is resumed."""
    loader: Loader
    counters: Counters
    progress: Progress
    """Where the run reports how it gets on."""
    log: EventLog
    """Holds events until the run directory is open."""
    storage: Storage
    """What the run is written to."""
    directory: RunDirectory | None = None
    """That of a run that is resumed; a new one is made when the model is loaded."""
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    tables: Sequence[Table] = TABLES
    """What it puts out."""

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.directory is not None and self.directory.earlier["status"] == "finished"

    @property
    def title(self) -> str:
        """What is written over its display."""
        layers = ", ".join(map(str, self.config.layers))
        return f"streamer · {self.config.model} · layers {layers}"


def prepare(
    config: RunConfig,
    *,
    fresh: bool = False,
    progress: Progress = SILENT,
    tables: Sequence[Table] = TABLES,
) -> Prepared:
    """Find the inputs and look at the first records; check every path. Writes nothing.

    Where a run is, it is resumed; with `fresh` a new one begins beside it.

    :raises UsageError: a path is wrong, the output is taken, the records have unknown fields, or a
        run that would be resumed was begun with other settings, inputs or tables.
    :raises RunFault: the run's last part is damaged.
    """
    out = config.out or default_path()
    if fresh:
        out = unused(out)
    if not is_run(out):
        check_free(out)
    model_path(config)
    sae_locations(config)
    if config.follow:
        check_paths(config.paths)
    sources = [] if config.follow else expand(config.paths)
    inputs = [identity(source) for source in sources]
    log, stopped = EventLog(), threading.Event()
    counters = Counters(
        bytes_total=None if config.follow else _bytes_of(sources), limit=config.limit
    )

    def retries() -> RetryPolicy:
        return RetryPolicy(stopped, log.write, WaitingNotice(counters, progress.print))

    storage = LocalStorage(out, WaitForRoom(config.disk_wait_seconds, retries()))
    if not is_run(out):
        loader = Loader(sources, config, counters.count_bytes, retries())
        return Prepared(
            config, out, inputs, loader, counters, progress, log, storage, tables=tables
        )
    open_run(out)  # raises if it is not one of ours
    directory = RunDirectory(storage, log, lambda: open_run(out).manifest)
    try:
        refuse_changes(out, directory.earlier, config, inputs)
        checkpoint = read_checkpoint(storage, leading(tables).name)
        refuse_other_tables(out, checkpoint, tables)
        counters.begin_at(checkpoint.counts)
        loader = Loader(
            sources,
            config.model_copy(update={"kind": directory.earlier["kind"]}),
            counters.count_bytes,
            retries(),
            begin=checkpoint.places,
            first_row=checkpoint.row,
        )
    except BaseException:
        directory.leave()
        raise
    return Prepared(
        config, out, inputs, loader, counters, progress, log, storage, directory, checkpoint, tables
    )


def _bytes_of(sources: Sequence[Source]) -> int | None:
    """Of all sources together; None if one cannot tell."""
    sizes = [source.size for source in sources]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
