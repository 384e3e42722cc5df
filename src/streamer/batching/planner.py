"""From records in input order to batches of like length: less padding, the same numbers.

Records are gathered into windows; within a window they are sorted by length and cut into batches
that fit the budget. Every batch names its window, so that the writer can restore the order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamer.records import Batch, Chunk, Loaded, Rejection, TokenizedRecord, Window

WINDOW_SECONDS = 10.0
FIRST_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """What one batch may hold."""

    records: int
    tokens: int
    """Positions, padding included. A single record that needs more runs alone."""

    def holds(self, records: int, positions: int) -> bool:
        """Whether a batch may have so many records and padded positions."""
        return records <= self.records and positions <= self.tokens


class Planner:
    """Gathers records into windows of `window_records` and cuts those into batches."""

    def __init__(self, budget: Budget, window_records: int, window_bytes: int) -> None:
        self.budget = budget
        self._window_records = window_records
        self._window_bytes = window_bytes
        self._gathered: list[Loaded] = []
        self._bytes = 0
        self._windows = 0

    def add(self, chunk: Chunk) -> None:
        """Gather the records of `chunk`."""
        self._gathered += chunk.records
        self._bytes += chunk.size

    def is_full(self, per_second: float) -> bool:
        """Whether the window should be cut now, given how many records a second are measured.

        Nothing of a window is on disk before all of it is, so it is kept to `WINDOW_SECONDS`.
        """
        worth = max(self.budget.records, round(per_second * WINDOW_SECONDS))
        if not per_second:  # nothing is measured yet: a few batches tell
            worth = FIRST_BATCHES * self.budget.records
        return (
            len(self._gathered) >= min(worth, self._window_records)
            or self._bytes >= self._window_bytes
        )

    def cut(self) -> Iterator[Batch]:
        """The batches of all that was gathered, window by window."""
        gathered, self._gathered, self._bytes = self._gathered, [], 0
        for begin in range(0, len(gathered), self._window_records):
            yield from self._window(gathered[begin : begin + self._window_records])

    def _window(self, gathered: Sequence[Loaded]) -> Iterator[Batch]:
        """The batches of one window. Rejections ride on the first."""
        window = Window(self._windows, len(gathered))
        self._windows += 1
        rejections = tuple(record for record in gathered if isinstance(record, Rejection))
        good = [record for record in gathered if isinstance(record, TokenizedRecord)]
        if not good:
            yield Batch(window, (), rejections)
            return
        good.sort(key=lambda record: record.longest)
        for records in self._fitting(good):
            yield Batch(window, records, rejections)
            rejections = ()

    def _fitting(
        self, by_length: Sequence[TokenizedRecord]
    ) -> Iterator[tuple[TokenizedRecord, ...]]:
        begin = rows = 0
        for end, record in enumerate(by_length):
            rows += len(record.tokens)
            # sorted, so that the last is the longest and pads the others
            if end > begin and not self.budget.holds(end + 1 - begin, rows * record.longest):
                yield tuple(by_length[begin:end])
                begin, rows = end, len(record.tokens)
        yield tuple(by_length[begin:])
