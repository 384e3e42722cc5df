"""From records in input order to batches: sorted, so that they share and pad well.

Records are gathered into windows; within a window they are sorted and cut into batches that fit the
current budget. Every batch names its window, so that the writer can restore the order.
"""

from collections.abc import Iterator, Sequence

from streamer.batches import NOTHING, Batch, Footprint, PackedTokens, Window
from streamer.planning.budget import Budget
from streamer.planning.packing import Packing
from streamer.planning.trie import Ints
from streamer.records import Chunk, Loaded, Rejection, TokenizedRecord

WINDOW_SECONDS = 20.0
"""A window holds at most what is measured in this time."""
FIRST_SECONDS = 0.1
"""When the device has waited this long, the first window is cut with the records that have come."""
LOOK_AT = 16
"""Records to look at first, to find out how many fit a batch."""


class Planner:
    """Gathers records into windows of `window_records` and cuts those into batches."""

    def __init__(
        self,
        packing: Packing,
        budget: Budget,
        window_records: int,
        window_bytes: int,
        *,
        whole_windows: bool = False,
    ) -> None:
        """`whole_windows`: cut each window at the same record, never early, so that batches do not
        depend on when records arrive."""
        self.budget = budget
        self.whole_windows = whole_windows
        self._packing = packing
        self._window_records = window_records
        self._window_bytes = window_bytes
        self._gathered: list[Loaded] = []
        self._sizes: list[int] = []
        self._bytes = 0
        self._windows = 0

    def add(self, chunk: Chunk) -> None:
        """Gather the records of `chunk`."""
        self._gathered += chunk.records
        self._sizes += chunk.sizes
        self._bytes += chunk.size

    def is_full(self, per_second: float, idle_seconds: float = 0.0) -> bool:
        """Whether the window should be cut now, given how many records a second are measured, and
        how long the device has been idle. Fast: the event loop calls it after each chunk.

        A window is written only once all of it is measured, so it is limited to `WINDOW_SECONDS`;
        and to one batch, a few seconds at most, until something was measured (see
        `fills_a_batch`).
        """
        if len(self._gathered) >= self._window_records or self._bytes >= self._window_bytes:
            return True
        if self.whole_windows:
            return False
        if per_second:
            return idle_seconds > 0 or len(self._gathered) >= per_second * WINDOW_SECONDS
        return idle_seconds > FIRST_SECONDS

    def fills_a_batch(self) -> bool:
        """Whether the gathered records fill the budget, and windows may be cut early. Sorts all of
        them, so call it in a thread."""
        if self.whole_windows:
            return False
        alike = self._sorted([one for one in self._gathered if isinstance(one, TokenizedRecord)])
        sizes = [self._packing.sizes(records) for records in alike if records]
        together = sum(map(_of_all, sizes), start=NOTHING)
        return not self.budget.holds(len(self._gathered), together)

    def cut(self, *, at_end: bool = False) -> Iterator[Batch]:
        """The batches of all gathered records, window by window, each cut when it is requested. A
        last window that is not full is left if windows must be whole and it is not `at_end`."""
        while self._gathered:
            rows, is_full = self._first_window()
            if not (is_full or at_end or not self.whole_windows):
                return
            window, self._gathered = self._gathered[:rows], self._gathered[rows:]
            self._bytes -= sum(self._sizes[:rows])
            del self._sizes[:rows]
            yield from self._window(window)

    def _first_window(self) -> tuple[int, bool]:
        """How many records the first window has, and whether it is full."""
        size = 0
        for rows, held in enumerate(self._sizes, 1):
            size += held
            if rows == self._window_records or size >= self._window_bytes:
                return rows, True
        return len(self._gathered), False

    def _window(self, gathered: Sequence[Loaded]) -> Iterator[Batch]:
        """The batches of one window. The first carries the rejections."""
        window = Window(self._windows, len(gathered))
        self._windows += 1
        rejections = tuple(record for record in gathered if isinstance(record, Rejection))
        good = [record for record in gathered if isinstance(record, TokenizedRecord)]
        if not good:
            yield Batch(window, (), rejections)
        for alike in self._sorted(good):
            left = alike
            while left:
                records, rows = self._first_batch(left)
                yield Batch(window, records, rejections, rows)
                left, rejections = left[len(records) :], ()

    def _sorted(self, records: Sequence[TokenizedRecord]) -> Iterator[list[TokenizedRecord]]:
        """Short records and long ones, each in the order in which they are cut."""
        short: list[TokenizedRecord] = []
        long: list[TokenizedRecord] = []
        for record in records:
            (short if self._packing.shares_a_row(record) else long).append(record)
        yield self._packing.in_order(short)
        yield self._packing.in_order(long)

    def _first_batch(
        self, records: Sequence[TokenizedRecord]
    ) -> tuple[tuple[TokenizedRecord, ...], PackedTokens]:
        """As many of the first `records` as the budget holds, but at least one."""
        fit, seen = 0, 0
        while fit == seen < len(records):  # so far all fit
            seen = min(len(records), 2 * seen or LOOK_AT)
            fit = self.budget.count_held(self._packing.sizes(records[:seen]))
        while True:
            chosen = tuple(records[: max(1, fit)])
            rows = self._packing.pack(chosen)
            if fit <= 1 or self.budget.holds(fit, rows.footprint):
                return chosen, rows
            # by size, if more was added than padding; else a sixteenth less at a time
            fit = min(fit - -(-fit // 16), max(1, self.budget.cut_to(fit, rows.footprint)))


def _of_all(sizes: Footprint[Ints]) -> Footprint[int]:
    """The last entry, which is for all records."""
    return Footprint(int(sizes.positions[-1]), int(sizes.pairs[-1]), int(sizes.passages[-1]))
