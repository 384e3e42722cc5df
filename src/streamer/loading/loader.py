"""The loading stage: one pass over all sources, in chunks that the pipeline takes one at a time."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence

from streamer.config import RunConfig
from streamer.loading.parsing import parse, settle_fields
from streamer.loading.reading import read_items
from streamer.loading.sources import Source, read_bytes
from streamer.loading.tokenizing import Tokenizing, tokenize
from streamer.patience import Patience
from streamer.records import Chunk, Item, Loaded, Record, Rejection

CHUNK_RECORDS = 64
CHUNK_BYTES = 2**20


class Loader:
    """Reads, parses and tokenizes `sources` in order.

    Opening it reads the first records, to tell their kind. It is used from one thread at a time.

    :raises UsageError: if the first records have the fields of no kind of record.
    """

    def __init__(
        self, sources: Sequence[Source], config: RunConfig, on_read: Callable[[int], None]
    ) -> None:
        self._sources = {source.name: source for source in sources}
        self._on_read = on_read
        self.stopped = threading.Event()
        """Set it, from any thread, to read no further."""
        self.patience = Patience(self.stopped)
        """With sources that fail; who is to hear of it may still be put in."""
        items = self._read_all()
        self.fields, first = settle_fields(config, items)
        self.records = 0
        self.cut = 0
        self._items = _limited(itertools.chain(first, items), config.limit)

    def next_chunk(self, how: Tokenizing) -> Chunk | None:
        """The next records, tokenized, good and bad in input order; None at the end.

        :raises RunFault: a source could not be read on.
        """
        parsed: list[Record | Rejection] = []
        size = 0
        while len(parsed) < CHUNK_RECORDS and size < CHUNK_BYTES and not self.stopped.is_set():
            try:
                item = next(self._items)
            except StopIteration:
                break
            if item is None:  # nothing comes: hand over what is here
                if parsed:
                    break
                continue
            parsed.append(parse(item, self._sources[item.origin.source], self.fields))
            size += len(item.raw)
        if not parsed:
            return None
        self.records += len(parsed)
        tokenized, cut = tokenize([item for item in parsed if isinstance(item, Record)], how)
        self.cut += cut
        good: Iterator[Loaded] = iter(tokenized)
        return Chunk(tuple(item if isinstance(item, Rejection) else next(good) for item in parsed))

    def _read_all(self) -> Iterator[Item | None]:
        row = 0
        for source in self._sources.values():
            for item in read_items(source, read_bytes(source, self._on_read, self.patience), row):
                yield item
                row += item is not None


def _limited(items: Iterator[Item | None], limit: int | None) -> Iterator[Item | None]:
    """`items` until `limit` of them have come; a None is none."""
    left = limit
    while left is None or left > 0:
        try:
            item = next(items)
        except StopIteration:
            return
        yield item
        if left is not None and item is not None:
            left -= 1
