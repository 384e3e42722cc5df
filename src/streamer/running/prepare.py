"""What can be settled before the model is loaded, so that most mistakes are told at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamer.computing.model.find import model_path
from streamer.computing.sae.find import sae_locations
from streamer.config import RunConfig
from streamer.loading.follow.follower import check_paths
from streamer.loading.identity import identity
from streamer.loading.loader import Loader
from streamer.loading.sources import expand
from streamer.monitoring.counters import Counters
from streamer.results.run import open_run
from streamer.running.resume import refuse_changes
from streamer.writing.commit import Checkpoint, read_checkpoint
from streamer.writing.directory import RunDirectory, check_free, default_path, is_run, unused


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready to load its model."""

    config: RunConfig
    out: Path
    inputs: list[dict[str, Any]]
    """What each is known by."""
    loader: Loader
    counters: Counters
    directory: RunDirectory | None = None
    """That of a run that goes on; a new one is made when the model is there."""
    begin: Checkpoint = field(default_factory=Checkpoint)

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.directory is not None and self.directory.earlier["status"] == "finished"


def prepare(config: RunConfig, *, fresh: bool = False) -> Prepared:
    """Find the inputs and look at the first records; check every path. Writes nothing.

    Where a run is, it goes on; with `fresh` a new one begins beside it.

    :raises UsageError: a path is wrong, the output is taken, the records have unknown fields, or a
        run that would go on was begun with other settings or inputs.
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
    sizes = [source.size for source in sources]
    known = [size for size in sizes if size is not None]
    counters = Counters(
        bytes_total=None if config.follow or len(known) < len(sizes) else sum(known),
        limit=config.limit,
    )
    if not is_run(out):
        loader = Loader(sources, config, counters.count_bytes)
        return Prepared(config, out, inputs, loader, counters)
    open_run(out)  # raises if it is not one of ours
    directory = RunDirectory(out, lambda: open_run(out).manifest)
    try:
        refuse_changes(out, directory.earlier, config, inputs)
        begin = read_checkpoint(out)
        counters.begin_at(begin.counts)
        known_kind = config.model_copy(update={"kind": directory.earlier["kind"]})
        loader = Loader(sources, known_kind, counters.count_bytes, begin.places, begin.row)
    except BaseException:
        directory.leave()
        raise
    return Prepared(config, out, inputs, loader, counters, directory, begin)
