"""What has happened so far: counted by the stages, read by the display."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from streamer.records import Counts, Result

STAGES = ("load", "plan", "compute", "write")
RATE_SECONDS = 20.0
"""The displayed rate is that of so many last seconds."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Runs from when it is made."""

    begin: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self.begin


@dataclass(slots=True)
class Counters:
    """Shared by all stages. Each number has one writer; `busy` and `bytes_read` are locked."""

    bytes_total: int | None = None
    """Of all sources; None if one does not tell."""
    bytes_read: int = 0
    records_in: int = 0
    """Handed over by the loader."""
    records_total: int | None = None
    """Known once the input has ended."""
    limit: int | None = None
    """Most records that will be read."""
    before: int = 0
    """Records of earlier sessions of the run; all counts of records include them."""
    done: int = 0
    """Records that have been through the device, good and bad."""
    rows: int = 0
    rejected: int = 0
    truncated: int = 0
    tokens: int = 0
    """Of all passages, as if none were shared."""
    distinct: int = 0
    """Run, shared ones once."""
    positions: int = 0
    """Run, padding counted."""
    reruns: int = 0
    """Passages run again in float32."""
    splits: int = 0
    """Batches split for want of memory."""
    trouble: str | None = None
    """What the run waits for to pass, as in "disk full: waiting"; set and cleared by any thread."""
    faults: int = 0
    """Errors that the model raised on batches, or parts of them, which were then split."""
    batches: int = 0
    batch_records: int = 0
    """In the last batch."""
    beats: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    """Signs of progress that each stage has given."""
    busy_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    started: float = field(default_factory=time.monotonic)
    turn: contextlib.AbstractContextManager[object] = field(default_factory=contextlib.nullcontext)
    """What a stage holds while it works: a lock, if they are to work one after another."""
    _history: deque[tuple[float, int, int]] = field(default_factory=deque)
    _running: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def seconds(self) -> float:
        """Since the first record was asked for."""
        return time.monotonic() - self.started

    @property
    def per_second(self) -> float:
        """Records a second while the device works."""
        return (self.done - self.before) / max(self.busy_seconds["compute"], 1e-9)

    def start(self) -> None:
        """Set the clock: what was before is not the run's."""
        self.started = time.monotonic()

    def begin_at(self, counts: Counts) -> None:
        """Go on where an earlier session has written so much."""
        self.before = self.done = self.records_in = counts.records
        self.written(counts)

    def written(self, counts: Counts) -> None:
        """So much is written."""
        self.rows = counts.rows
        self.rejected = counts.rejected
        self.truncated = counts.truncated

    def count(self, result: Result) -> None:
        """Add what came of a batch."""
        work = result.work
        self.done += len(result.records) + len(result.rejections)
        self.tokens += work.tokens
        self.distinct += work.distinct
        self.positions += work.positions
        self.reruns += work.reruns
        self.splits += work.splits
        self.faults += work.faults
        if result.records:
            self.batches += 1
            self.batch_records = len(result.records)

    @contextlib.contextmanager
    def busy(self, stage: str) -> Iterator[Clock]:
        """Counts the time inside as work of `stage`, also while it is still going on; and waits
        for the other stages where they are not to overlap."""
        with self.turn:
            clock = Clock()
            self.beat(stage)
            with self._lock:
                self._running[stage] = clock.begin
            try:
                yield clock
            finally:
                with self._lock:
                    self.busy_seconds[stage] += clock.seconds
                    del self._running[stage]
                self.beat(stage)

    def beat(self, stage: str) -> None:
        """Say that `stage` gets on, or is well and has to wait for something outside.

        To be called by what may take long, or wait, while it is `busy`: the watchdog takes a stage
        that gives no sign for one that hangs.
        """
        self.beats[stage] += 1

    def at_work(self) -> list[str]:
        """The stages that are `busy` now."""
        with self._lock:
            return list(self._running)

    def busy_so_far(self) -> dict[str, float]:
        """Seconds that each stage has worked."""
        now = time.monotonic()
        with self._lock:
            return {
                stage: seconds + (now - self._running[stage] if stage in self._running else 0.0)
                for stage, seconds in self.busy_seconds.items()
            }

    def count_bytes(self, size: int) -> None:
        """`size` more bytes of the sources have been read; 0: there was nothing to read."""
        self.beat("load")
        with self._lock:
            self.bytes_read += size

    def rates(self) -> tuple[float, float]:
        """Records and tokens a second over the last `RATE_SECONDS`. Call it regularly."""
        now = time.monotonic()
        self._history.append((now, self.done, self.tokens))
        while now - self._history[0][0] > RATE_SECONDS and len(self._history) > 2:
            self._history.popleft()
        then, done, tokens = self._history[0]
        if now - then < 1.0:
            then, done, tokens = self.started, self.before, 0
        span = max(now - then, 1e-9)
        return (self.done - done) / span, (self.tokens - tokens) / span

    def total(self) -> float | None:
        """How many records there are: known at the end of the input, before that estimated from the
        share of bytes read and bounded by the limit; None while there is nothing to go by."""
        if self.records_total is not None:
            return self.records_total
        if not self.bytes_total or not self.bytes_read or not self.records_in:
            return self.limit
        estimate = self.records_in * self.bytes_total / min(self.bytes_read, self.bytes_total)
        return estimate if self.limit is None else min(estimate, self.limit)

    def fraction(self) -> float | None:
        """How much is done, 0 to 1; None while the total is unknown."""
        total = self.total()
        if total is None:
            return None
        return min(1.0, self.done / total) if total else 1.0

    def seconds_left(self, rate: float) -> float | None:
        """At `rate` records a second; None while nothing is known."""
        total = self.total()
        if total is None or not rate:
            return None
        return max(0.0, total - self.done) / rate
