"""The first records of an input, tokenized, beside a worker that is ready for them."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.concurrency.events import ignore
from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.loading.tokenizing import Tokenizing
from streamer.monitoring.library_warnings import LibraryWarnings
from streamer.records import TokenizedRecord
from streamer.running.prepare import prepare
from streamer.tables import TABLES, Table


@dataclass(frozen=True, slots=True)
class Sample:
    """What `tune` and `verify` work on."""

    worker: Worker
    records: tuple[TokenizedRecord, ...]


def take_sample(config: RunConfig, count: int, tables: Sequence[Table] = TABLES) -> Sample:
    """The first `count` good records of the input that `config` names, and its worker, that makes
    rows of `tables`.

    :raises UsageError: the configuration is wrong, or there is no good record.
    """
    if count < 1:
        raise UsageError(f"--records {count}: expected at least 1")
    apart = {"out": None, "follow": False}  # nothing is written, nothing waited for
    prepared = prepare(config.model_copy(update=apart))
    with LibraryWarnings(ignore):
        worker = load_worker(config, prepared.loader.fields.kind, tables)
    how = Tokenizing(worker.model.tokenizer, worker.bos_id, worker.model.context, config.too_long)
    records: list[TokenizedRecord] = []
    while len(records) < count and (chunk := prepared.loader.next_chunk(how)) is not None:
        records += [record for record in chunk.records if isinstance(record, TokenizedRecord)]
    if not records:
        raise UsageError(
            f"{', '.join(config.paths)}: no record can be measured. `streamer run` writes the "
            f"reason of each into RUN/rejected."
        )
    return Sample(worker, tuple(records[:count]))
