"""The first records of an input, tokenized, and a worker ready to measure them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console

from streamer.computing.load import load_worker
from streamer.computing.model.find import model_path
from streamer.computing.sae.find import sae_locations
from streamer.computing.worker import Worker
from streamer.concurrency.events import ignore
from streamer.concurrency.retry import RetryPolicy
from streamer.config import Kind, RunConfig
from streamer.errors import UsageError
from streamer.loading.first_look import doubts
from streamer.loading.loader import Loader
from streamer.loading.sources import expand
from streamer.loading.tokenizing import Tokenizing
from streamer.monitoring.library_warnings import LibraryWarnings
from streamer.records import Chunk, TokenizedRecord
from streamer.running.notes import doubled_note
from streamer.tables import TABLES, Table


@dataclass(frozen=True, slots=True)
class Sample:
    """What `tune` and `verify` work on."""

    worker: Worker
    chunks: tuple[Chunk, ...]
    """As a run would load them, with what it would reject, up to the last good record."""
    kind: Kind
    notes: tuple[str, ...]
    """What a run would tell of model, SAEs and records when it begins."""

    @property
    def records(self) -> tuple[TokenizedRecord, ...]:
        """The good ones, in input order."""
        return tuple(good_ones(self.chunks))


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
    worker = worker_for(config, loader.fields.kind, tables)
    model = worker.model
    notes = [*model.notes, *doubts(loader.first_records(), model.tokenizer)]
    how = Tokenizing(
        model.tokenizer, worker.bos_id, model.context, config.too_long, model.vocabulary
    )
    chunks = _first(count, loader, how)
    if not chunks:
        raise UsageError(
            f"{', '.join(config.paths)}: no record can be measured. `streamer run` writes the "
            f"reason of each into RUN/rejected."
        )
    notes += [doubled_note(loader.doubled)] if loader.doubled is not None else []
    return Sample(worker, tuple(chunks), loader.fields.kind, tuple(notes))


def worker_for(config: RunConfig, kind: Kind, tables: Sequence[Table]) -> Worker:
    """That of a run of `config` on records of that kind, which makes rows of `tables`.

    :raises UsageError: the device, the model or an SAE is not available.
    """
    with LibraryWarnings(ignore):
        return load_worker(config, kind, tables)


def good_ones(chunks: Iterable[Chunk]) -> list[TokenizedRecord]:
    """The records in `chunks` that can be measured, in input order."""
    return [one for chunk in chunks for one in chunk.records if isinstance(one, TokenizedRecord)]


def tell(notes: Iterable[str], console: Console) -> None:
    """Print `notes` as a run does."""
    for note in notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def _first(count: int, loader: Loader, how: Tokenizing) -> list[Chunk]:
    """The chunks of the first `count` good records, cut behind the last of them; none if there is
    no good record."""
    chunks: list[Chunk] = []
    left = count
    while left and (chunk := loader.next_chunk(how)) is not None:
        good = [at for at, one in enumerate(chunk.records) if isinstance(one, TokenizedRecord)]
        if len(good) > left:
            chunk = Chunk.of(chunk.records[: good[left - 1] + 1])
        chunks.append(chunk)
        left -= min(left, len(good))
    return chunks if left < count else []
