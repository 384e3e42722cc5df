"""How much a batch may hold: found while running, from what the device does with it."""

from collections.abc import Callable
from dataclasses import dataclass

from streamer.records import Work

FULL = 0.6
"""A batch tells about a budget if it fills at least this share of it."""
TRIALS = 4
"""So many full batches are measured before a budget is judged; the first is warm-up."""
GAIN = 1.1
"""A budget twice as large must be faster by this factor to be kept: less is noise, and not worth
the memory."""
FREE_SHARE = 0.9
"""Of the free memory may be used by a budget that is tried."""
RETRY = 200
"""After so many batches at a settled budget, the next larger one is tried again."""
LONGEST_SECONDS = 8.0
"""A batch that takes longer gains nothing by being larger, and delays a run that is stopped."""
SMALLEST = 16


@dataclass(frozen=True, slots=True)
class Headroom:
    """Memory of the device, in bytes."""

    used: int
    """Most that batches have needed so far, beyond what is always there."""
    free: int
    """What more could be had."""


class Budget:
    """Token positions, and records if capped, that one batch may hold.

    It starts at `start` and doubles up to `most` while tokens a second rise and memory allows;
    then it settles, and tries again now and then. Out of memory, it stays below. It is fixed if
    `start` is `most`. The planner reads it and the worker's stage tells it, each in its thread.
    """

    def __init__(
        self,
        start: int,
        most: int | None = None,
        records: int | None = None,
        headroom: Callable[[], Headroom] | None = None,
    ) -> None:
        self.most = max(start, most if most is not None else start)
        self.records = records
        self.tokens = start
        self._headroom = headroom
        self._rate_below = 0.0
        """Tokens a second at half the present budget."""
        self._trials: list[tuple[int, float]] = []
        self._climbing = start < self.most
        self._settled_for = 0
        self._largest = 0

    def holds(self, records: int, positions: int) -> bool:
        """Whether a batch may have so many records and positions, padding included."""
        return positions <= self.tokens and (self.records is None or records <= self.records)

    def measured(self, work: Work, seconds: float) -> None:
        """Take account of a batch that was run."""
        self._largest = max(self._largest, work.positions)
        if work.splits and not work.hopeless:  # else it was a record that fits no budget
            self._stay_below(work)
        elif work.positions >= FULL * self.tokens and not work.faults:
            if self._climbing:
                self._trials.append((work.distinct, seconds))
                if len(self._trials) >= TRIALS:
                    self._judge()
            else:
                self._settled_for += 1
                if self._settled_for >= RETRY:
                    self._climbing, self._rate_below, self._trials = True, 0.0, []

    def _judge(self) -> None:
        """Climb if the present budget was worth it, else settle for the one below."""
        tokens, seconds = map(sum, zip(*self._trials[1:], strict=True))
        longest = max(seconds for _, seconds in self._trials[1:])
        rate = tokens / max(seconds, 1e-9)
        self._trials = []
        if rate < GAIN * self._rate_below:
            self._settle(self.tokens // 2)
        elif 2 * self.tokens > self.most or 2 * longest > LONGEST_SECONDS or not self._has_room():
            self._settle(self.tokens)
        else:
            self._rate_below = rate
            self.tokens *= 2

    def _has_room(self) -> bool:
        """Whether twice the present budget is predicted to fit the memory."""
        if self._headroom is None or not self._largest:
            return True
        memory = self._headroom()
        needed = memory.used / self._largest * 2 * self.tokens
        return needed - memory.used < FREE_SHARE * memory.free

    def _stay_below(self, work: Work) -> None:
        """A batch did not fit: from now on none is larger than what did."""
        self.most = min(self.tokens, max(SMALLEST, work.largest))
        self._settle(self.most)

    def _settle(self, tokens: int) -> None:
        self.tokens, self._climbing, self._settled_for, self._trials = tokens, False, 0, []
