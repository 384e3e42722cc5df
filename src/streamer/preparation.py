"""What can be settled before the model is loaded, so that most mistakes are told at once."""

from dataclasses import dataclass
from pathlib import Path

from streamer.config import RunConfig
from streamer.loading.loader import Loader
from streamer.loading.sources import Source, expand
from streamer.model.locations import model_path, sae_locations
from streamer.monitoring.counters import Counters
from streamer.writing.directory import check_free, default_path


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready to load its model."""

    config: RunConfig
    out: Path
    sources: list[Source]
    loader: Loader
    counters: Counters


def prepare(config: RunConfig) -> Prepared:
    """Find the inputs and look at the first records; check every path. Writes nothing.

    :raises UsageError: a path is wrong, the output is taken, or the records have unknown fields.
    """
    out = config.out or default_path()
    check_free(out)
    model_path(config)
    sae_locations(config)
    sources = expand(config.paths)
    sizes = [source.size for source in sources]
    known = [size for size in sizes if size is not None]
    counters = Counters(
        bytes_total=sum(known) if len(known) == len(sizes) else None, limit=config.limit
    )
    loader = Loader(sources, config, counters.count_bytes)
    return Prepared(config, out, sources, loader, counters)
