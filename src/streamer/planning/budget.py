"""How much a batch may hold: found while running, from what the device does with it.

Three things limit a batch. Token positions and predicted bytes (see `BatchCost`) climb together
while that is faster. Memory limits the bytes: how many a batch really needed, over what was
predicted, corrects the prediction, and what is free bounds the next batch. And what did not fit is
not tried again for a while.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamer.batches import Footprint, Work
from streamer.device.memory import Headroom
from streamer.planning.cost import BatchCost
from streamer.planning.trie import Ints

FULL = 0.6
"""A batch tells about a budget if it fills at least this share of it: a record that did not fit any
more leaves up to its own size empty."""
TRIALS = 4
"""So many full batches are measured before a budget is judged; the first is warm-up. With fewer,
one slow batch would decide; with more, a short run would spend its time on small batches."""
GAIN = 1.1
"""A budget twice as large must be faster by this factor to be kept. Less is noise: the machine's
own rate moves by a fifth within seconds (docs/performance.md), and from 8 records a batch to 16 the
rate rose by a factor of 1.05 where from 4 to 8 it was 1.4 (bench/results/batch_sizes.json)."""
FREE_SHARE = 0.9
"""Of the free memory may be used: the rest is for what else the process and the machine do."""
RETRY = 200
"""After so many batches at a settled budget, the next larger one is tried again; and so is what did
not fit. A try costs some batches at a worse size, of 200."""
LONGEST_SECONDS = 8.0
"""A batch that takes longer gains nothing by being larger, and delays a run that is stopped: what
is in flight has ten seconds then."""
SCALES = (0.25, 8.0)
"""A batch is taken to need no less and no more than this, times what was predicted. The bounds only
keep a wrong reading (memory that others freed or took at that moment) from doing harm."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A full batch."""

    tokens: int
    """That were run: shared ones once."""
    seconds: float
    fills: tuple[bool, bool]
    """The limit of positions; that of bytes."""


class Budget:
    """Token positions, predicted bytes, and records if capped, that one batch may hold.

    Positions start at `start` and double up to `most`, bytes start at `start_bytes`, without which
    they are not limited; whichever a batch fills is doubled while tokens a second rise and memory
    allows. Then it settles, and tries again now and then. Positions are fixed if `start` is `most`,
    and bytes, too, unless it `climbs`. The planner reads it and the worker's stage tells it, each
    in its thread.
    """

    def __init__(
        self,
        start: int,
        most: int | None = None,
        records: int | None = None,
        *,
        cost: BatchCost = BatchCost(),  # noqa: B008  (frozen)
        start_bytes: float = math.inf,
        climbs: bool = True,
        headroom: Callable[[], Headroom] | None = None,
    ) -> None:
        """`headroom` is asked after each batch what that needed and what is free."""
        self.most = max(start, most if most is not None else start)
        self.records = records
        self.tokens = start
        self.cost = cost
        self._bytes = start_bytes
        """Climbs with the rate."""
        self._room = math.inf
        """Predicted bytes that fit the free memory."""
        self._ceiling = math.inf
        """Predicted bytes beyond which a batch did not fit."""
        self._below_ceiling = 0
        """Batches since one did not fit."""
        self._retry_ceiling = RETRY
        """How many of them it takes until more is tried."""
        self._headroom = headroom
        self._scale = 1.0
        """Bytes that a batch needs, for each that is predicted."""
        self._rate_below = 0.0
        """Tokens a second at the budget before the last climb; 0 if there was none."""
        self._raised = (False, False)
        """Whether the last climb raised positions; bytes."""
        self._trials: list[Trial] = []
        self._climbs = climbs and (start < self.most or math.isfinite(start_bytes))
        self._climbing = self._climbs
        self._settled_for = 0

    @property
    def bytes(self) -> float:
        """Most bytes that may be predicted for a batch; infinite where nothing limits them."""
        return min(self._bytes, self._room, self._ceiling)

    def holds(self, records: int, size: Footprint[int]) -> bool:
        """Whether a batch may have so many records and be of that size."""
        return (
            size.positions <= self.tokens
            and (self.records is None or records <= self.records)
            and self.cost.bytes(size) <= self.bytes
        )

    def count_held(self, sizes: Footprint[Ints]) -> int:
        """How many records a batch may have, if `sizes` [record] are those of batches of the first
        one, two, … of them."""
        fits = (sizes.positions <= self.tokens) & (self.cost.bytes(sizes) <= self.bytes)
        held = len(fits) if fits.all() else int(np.argmin(fits))
        return held if self.records is None else min(held, self.records)

    def cut_to(self, records: int, size: Footprint[int]) -> int:
        """About how many of `records` it holds, which are of that size together."""
        by_positions = records * self.tokens // size.positions
        limit = self.bytes
        if math.isinf(limit):
            return by_positions
        return min(by_positions, int(records * limit / self.cost.bytes(size)))

    def measured(self, work: Work, seconds: float) -> None:
        """Take account of a batch that was run."""
        predicted = self.cost.bytes(work.largest)
        splits = work.counts.out_of_memory_splits
        fills = (work.positions >= FULL * self.tokens, predicted >= FULL * self.bytes)
        if self._headroom is not None:
            self._look_at_memory(self._headroom(), predicted, learn=any(fills) and not splits)
        if splits:
            if not work.hopeless:  # else it was a record that fits no budget
                self._stay_below(predicted)
            return
        self._try_above_ceiling()
        if self._climbs and any(fills) and not work.counts.model_errors:
            if self._climbing:
                self._trials.append(Trial(work.counts.tokens_run, seconds, fills))
                if len(self._trials) >= TRIALS:
                    self._judge()
            else:
                self._settled_for += 1
                if self._settled_for >= RETRY:
                    self._climbing, self._rate_below, self._trials = True, 0.0, []

    def _judge(self) -> None:
        """Climb if the present budget was worth it, else settle for the one below."""
        trials, self._trials = self._trials[1:], []
        rate = sum(trial.tokens for trial in trials) / max(sum(t.seconds for t in trials), 1e-9)
        fills_positions, fills_bytes = (
            any(fill) for fill in zip(*(t.fills for t in trials), strict=True)
        )
        fits = not (fills_positions and 2 * self.tokens > self.most)
        fits = fits and not (fills_bytes and 2 * self._bytes > min(self._room, self._ceiling))
        if rate < GAIN * self._rate_below:
            self._double(*self._raised, times=0.5)
            self._settle()
        elif not fits or 2 * max(trial.seconds for trial in trials) > LONGEST_SECONDS:
            self._settle()
        else:
            self._rate_below, self._raised = rate, (fills_positions, fills_bytes)
            self._double(*self._raised)

    def _double(self, positions: bool, size: bool, times: float = 2) -> None:
        if positions:
            self.tokens = int(times * self.tokens)
        if size:
            self._bytes *= times

    def _settle(self) -> None:
        self._climbing, self._settled_for = False, 0

    def _look_at_memory(self, memory: Headroom, predicted: int, *, learn: bool) -> None:
        """Correct the prediction by what the batch needed, if it was full: of a small one, most is
        not the batch's. It rises at once, and falls slowly: one batch in many may need more."""
        ratio = memory.needed / max(predicted, 1)
        if learn and memory.is_new_peak:
            self._scale = max(ratio, (self._scale + ratio) / 2)
        elif learn:  # it needed no more than that
            self._scale = min(self._scale, ratio)
        least, most = SCALES
        self._scale = min(max(self._scale, least), most)
        self._room = FREE_SHARE * memory.free / self._scale

    def _stay_below(self, predicted: int) -> None:
        """A batch did not fit, and so much did: no more until many batches have gone well. If that
        happens again, it takes twice as many."""
        if math.isfinite(self._ceiling):
            self._retry_ceiling *= 2
        self._ceiling = min(self.bytes, predicted or self.bytes / 2)
        self._below_ceiling = 0
        self._trials = []
        self._settle()

    def _try_above_ceiling(self) -> None:
        """What did not fit once may fit later: others have left, or it was wide rows."""
        if math.isfinite(self._ceiling):
            self._below_ceiling += 1
            if self._below_ceiling >= self._retry_ceiling:
                self._below_ceiling = 0
                self._ceiling *= 2
