"""The first records of an input, tokenized, and a worker ready to measure them."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamer.computing.load import load_worker
from streamer.computing.model.find import model_path
from streamer.computing.sae.find import sae_locations
from streamer.computing.worker import Worker
from streamer.concurrency.events import ignore
from streamer.concurrency.retry import RetryPolicy
from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.loading.first_look import doubts
from streamer.loading.loader import Loader
from streamer.loading.sources import expand
from streamer.loading.tokenizing import Tokenizing
from streamer.monitoring.library_warnings import LibraryWarnings
from streamer.records import TokenizedRecord
from streamer.tables import TABLES, Table


@dataclass(frozen=True, slots=True)
class Sample:
    """What `tune` and `verify` work on."""

    worker: Worker
    records: tuple[TokenizedRecord, ...]


def take_sample(config: RunConfig, count: int, tables: Sequence[Table] = TABLES) -> Sample:
    """The first `count` good records of the input that `config` names, and its worker, that makes
    rows of `tables`.

    Prepares no run, so nothing need be writable; does not wait for growing input.

    :raises UsageError: the configuration is wrong, there is no good record, or their tokens say
        nothing about them.
    """
    if count < 1:
        raise UsageError(f"--records {count}: expected at least 1")
    model_path(config)
    sae_locations(config)  # both before anything large is loaded
    once = config.model_copy(update={"follow": False})
    loader = Loader(expand(config.paths), once, ignore, RetryPolicy())
    with LibraryWarnings(ignore):
        worker = load_worker(config, loader.fields.kind, tables)
    model = worker.model
    model.notes += doubts(loader.first_records(), model.tokenizer)
    how = Tokenizing(
        model.tokenizer, worker.bos_id, model.context, config.too_long, model.vocabulary
    )
    records: list[TokenizedRecord] = []
    while len(records) < count and (chunk := loader.next_chunk(how)) is not None:
        records += [record for record in chunk.records if isinstance(record, TokenizedRecord)]
    if not records:
        raise UsageError(
            f"{', '.join(config.paths)}: no record can be measured. `streamer run` writes the "
            f"reason of each into RUN/rejected."
        )
    return Sample(worker, tuple(records[:count]))
