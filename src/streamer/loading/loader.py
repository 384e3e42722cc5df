"""The loading stage: one pass over all sources, in chunks that the pipeline takes one at a time."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from streamer.concurrency.retry import RetryPolicy
from streamer.config import RunConfig
from streamer.loading.follow.follower import Follower
from streamer.loading.parsing import parse, settle_fields
from streamer.loading.piped import Piped, is_piped
from streamer.loading.reading import read_items
from streamer.loading.sources import Source, read_bytes
from streamer.loading.tokenizing import Tokenizing, tokenize
from streamer.records import Chunk, Item, Loaded, Origin, Position, Record, Rejection

CHUNK_RECORDS = 64
CHUNK_BYTES = 2**20
DRAIN_SECONDS = 10.0
"""How long a stopped run may go on with the work in flight."""


class Loader:
    """Reads, parses and tokenizes `sources` in order, from `begin` up to but not including `end`.

    The constructor reads the first records to find their kind, unless it is configured. Use it from
    one thread at a time. Failed reads are retried by `retries`.

    :raises UsageError: the first records lack the fields of any kind of record.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        config: RunConfig,
        on_read: Callable[[int], None],
        retries: RetryPolicy,
        *,
        begin: Sequence[Position] = (),
        first_row: int = 0,
        end: Position | None = None,
    ) -> None:
        self._sources = sources
        self._on_read = on_read
        self._retries = retries
        self._end = end
        self.stopped = retries.stopped
        """Set by `stop`."""
        self._stopped_at = 0.0
        if config.follow:
            items = Follower(config.paths, on_read, begin, retries).items(first_row)
        else:
            items = self._read_all(begin[-1] if begin else None, first_row)
        self.fields, first = settle_fields(config, items)
        self.records = 0
        """Records read so far, good and bad."""
        self.doubled: Origin | None = None
        """The first record whose prompt ends with a blank, to which the separator adds another."""
        left = None if config.limit is None else config.limit - first_row
        self._items = _limited(itertools.chain(first, items), left)

    def stop(self) -> None:
        """Stop reading. May be called from any thread."""
        if not self.stopped.is_set():
            self._stopped_at = time.monotonic()
            self.stopped.set()

    @property
    def overdue(self) -> bool:
        """Whether it was stopped so long ago that what is in flight should be dropped."""
        return self.stopped.is_set() and time.monotonic() - self._stopped_at > DRAIN_SECONDS

    def first_records(self) -> list[Record]:
        """The good ones among the next records, at most a chunk, which come again with
        `next_chunk`. Fewer where input breaks, which `next_chunk` raises then, or does not come."""
        taken: list[Item] = []
        rest, size = self._items, 0
        try:
            while len(taken) < CHUNK_RECORDS and size < CHUNK_BYTES:
                item = next(self._items, None)
                if item is None:
                    break
                taken.append(item)
                size += len(item.raw)
        except Exception as error:  # told where the records before it are written
            rest = _raising(error)
        self._items = itertools.chain(taken, rest)
        parsed = (parse(item, self.fields) for item in taken)
        return [record for record in parsed if isinstance(record, Record)]

    def next_chunk(self, how: Tokenizing) -> Chunk | None:
        """The next records, good and bad, tokenized, in input order; an empty chunk while no input
        comes; None at the end.

        :raises RunFault: a source could not be read.
        """
        parsed: list[Record | Rejection] = []
        size = 0
        while len(parsed) < CHUNK_RECORDS and size < CHUNK_BYTES and not self.stopped.is_set():
            try:
                item = next(self._items)
            except StopIteration:
                break
            if item is None:  # no input for now: return what there is, even nothing
                return self._chunk(parsed, how)
            parsed.append(parse(item, self.fields))
            size += len(item.raw)
        return self._chunk(parsed, how) if parsed else None

    def _chunk(self, parsed: Sequence[Record | Rejection], how: Tokenizing) -> Chunk:
        self.records += len(parsed)
        records = [item for item in parsed if isinstance(item, Record)]
        if self.doubled is None and self.fields.separator[:1].isspace():
            blank = (one.origin for one in records if one.texts[1:] and one.texts[0][-1:].isspace())
            self.doubled = next(blank, None)
        good: Iterator[Loaded] = iter(tokenize(records, how))
        return Chunk.of([item if isinstance(item, Rejection) else next(good) for item in parsed])

    def _read_all(self, begin: Position | None, row: int) -> Iterator[Item | None]:
        for source in self._sources:
            if begin and (begin.source != source.name or begin.ended):  # nothing left to read
                self._on_read(source.size or 0)
                begin = None if begin.source == source.name else begin
                if self._end and self._end.source == source.name:
                    return
                continue
            # at 0, the array's [ has not been read
            position = begin if begin and begin.position else None
            begin = None
            end = self._end if self._end and self._end.source == source.name else None
            for item in self._read(source, row, position):
                if item is not None and end is not None and item.origin.offset >= end.offset:
                    return
                yield item
                row += item is not None
            if end is not None:
                return

    def _read(self, source: Source, row: int, left: Position | None) -> Iterator[Item | None]:
        if not is_piped(source):
            begin = left.offset if left else 0
            pieces = read_bytes(source, self._on_read, begin, retries=self._retries)
            yield from read_items(source, pieces, row, left)
            return
        pipe = Piped(source.name, read_bytes(source, self._on_read, retries=self._retries), left)
        for item in read_items(source, iter(pipe), row, left):
            yield item and replace(item, origin=replace(item.origin, head=pipe.head))


def _raising(error: Exception) -> Iterator[Item | None]:
    yield from ()
    raise error


def _limited(items: Iterator[Item | None], limit: int | None) -> Iterator[Item | None]:
    """The first `limit` of `items`; None is passed on and not counted."""
    left = limit
    while left is None or left > 0:
        try:
            item = next(items)
        except StopIteration:
            return
        yield item
        if left is not None and item is not None:
            left -= 1
