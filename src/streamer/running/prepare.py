"""What can be settled before the model is loaded, so that most mistakes are reported at once."""

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
from streamer.monitoring.status import NAME as STATUS
from streamer.monitoring.status import StatusFile
from streamer.monitoring.waiting_notice import WaitingNotice
from streamer.records import InputRange
from streamer.results.run import manifest_of
from streamer.running.resume import (
    as_begun,
    refuse_changes,
    refuse_other_tables,
)
from streamer.running.shards import (
    Shard,
    check_range,
    check_shard,
    refuse_orphans,
    refuse_shards,
    refuse_whole_run,
)
from streamer.tables import TABLES, Table, check_tables, leading
from streamer.writing.commit import Checkpoint, read_checkpoint
from streamer.writing.directory import RunDirectory
from streamer.writing.event_log import EventLog
from streamer.writing.names import WHOLE, Names
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
    range: InputRange
    """What it reads of them."""
    loader: Loader
    counters: Counters
    progress: Progress
    """Where the run reports how it gets on."""
    log: EventLog
    """Holds events until the run directory is open."""
    storage: Storage
    """What the run is written to."""
    names: Names
    """What its own files are called there."""
    checkpoint: Checkpoint
    """Where it begins."""
    tables: Sequence[Table]
    """What it puts out."""
    directory: RunDirectory | None = None
    """That of a run that is resumed; a new one is made when the model is loaded."""

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do: it came to its end, and all its parts are there."""
        earlier = self.directory.earlier if self.directory is not None else None
        if earlier is None or earlier.status != "finished":
            return False
        counted = earlier.counts.records if earlier.counts is not None else 0
        return self.checkpoint.counts.records >= counted

    def leave(self) -> None:
        """Release the directory of a run that is not gone on with."""
        if self.directory is not None:
            self.directory.leave()

    @property
    def status(self) -> StatusFile:
        """Its status.json, in the run directory or the shard's folder in it."""
        return StatusFile(partial(self.storage.post, self.names.own(STATUS)), self.title)

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
    shard: Shard | None = None,
    tables: Sequence[Table] = TABLES,
) -> Prepared:
    """Find the inputs and look at the first records; check every path. Writes nothing.

    Where a run is, it is resumed; with `fresh` a new one begins beside it. With a `shard`, only its
    part is done, beside those of other processes in the same run directory.

    :raises UsageError: a path is wrong, the output is taken, the records have unknown fields, or a
        run that would be resumed was begun with other settings, inputs or tables.
    :raises RunFault: the run's last part is damaged.
    """
    log, stopped = EventLog(), threading.Event()
    _check(config, tables)
    names, part = (Names(shard.name), shard.range) if shard else (WHOLE, InputRange())
    out = _output(config, names, leading(tables).name, fresh=fresh)
    own = out / names.folder
    sources = [] if config.follow else expand(config.paths)
    check_range(part, sources)
    counters = _counters(config, sources, part)

    def retries() -> RetryPolicy:
        return RetryPolicy(stopped, log.write, WaitingNotice(counters, progress.print))

    inputs = [identity(source, retries()) for source in sources]
    storage = LocalStorage(out, WaitForRoom(config.disk_wait_seconds, retries()))
    checkpoint = Checkpoint(row=part.first_row, positions=(part.begin,) if part.begin else ())
    with contextlib.ExitStack() as on_error:
        directory, kind = None, config.kind
        if is_run(own):
            manifest_of(storage, names)  # raises if it is not one of ours
            directory = RunDirectory(storage, log, lambda: manifest_of(storage, names), names)
            on_error.callback(directory.leave)
            earlier = directory.earlier
            assert earlier is not None
            config = as_begun(config, earlier)
            refuse_changes(str(own), earlier, config, inputs, part)
            checkpoint = read_checkpoint(storage, leading(tables).name, names, checkpoint)
            refuse_other_tables(str(own), checkpoint, tables)
            counters.begin_at(checkpoint.counts)
            kind = earlier.kind or config.kind
        loader = Loader(
            sources,
            config.model_copy(update={"kind": kind}),
            counters.count_bytes,
            retries(),
            begin=checkpoint.positions,
            first_row=checkpoint.row,
            end=part.end,
        )
        on_error.pop_all()
    return Prepared(
        config, out, inputs, part, loader, counters, progress, log, storage, names, checkpoint,
        tables, directory,
    )  # fmt: skip


def _output(config: RunConfig, names: Names, leads: str, *, fresh: bool) -> Path:
    """The run directory, in which these names may be written. `leads`: its leading table.

    :raises UsageError: it is taken, or one of several processes cannot do a part of this run.
    """
    if names.shard:
        check_shard(config)
    out = config.out or default_path()
    if fresh:
        out = unused(out)
    own = out / names.folder
    if names.shard:
        refuse_whole_run(LocalStorage(out), leads)
    if not is_run(own):
        if names.shard:
            refuse_orphans(LocalStorage(out), leads, names.shard)
        else:
            refuse_shards(LocalStorage(out))
        check_free(own)
    return out


def _check(config: RunConfig, tables: Sequence[Table]) -> None:
    """Return if the model, the SAEs and what is followed are where they should be, and the tables
    make a run.

    :raises UsageError: they are not, or do not.
    """
    check_tables(tables)
    model_path(config)
    sae_locations(config)
    if config.follow:
        check_paths(config.paths)


def _counters(config: RunConfig, sources: Sequence[Source], part: InputRange) -> Counters:
    """Those of a run that reads `part` of `sources`."""
    is_whole = part == InputRange() and not config.follow
    return Counters(
        # of a range, only whoever cut it knows how many records it has
        bytes_total=_bytes_of(sources) if is_whole else None,
        limit=None if config.limit is None else max(0, config.limit - part.first_row),
    )


def _bytes_of(sources: Sequence[Source]) -> int | None:
    """Of all sources together; None if one cannot tell."""
    sizes = [source.size for source in sources]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
