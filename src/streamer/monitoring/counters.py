"""What the stages have done so far: counted by them, read by the display and the watchdog."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from streamer.batches import Result
from streamer.records import Counts

STAGES = ("load", "plan", "compute", "write")
RATE_SECONDS = 20.0
"""The displayed rate is an average over this many seconds."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A stopwatch that starts when it is created."""

    begin: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since it was created."""
        return time.monotonic() - self.begin


@dataclass(slots=True)
class Counters:
    """Shared by all stages. Each number is written by one stage; those that several write,
    `bytes_read` and the seconds of `busy`, have a lock."""

    bytes_total: int | None = None
    """Bytes of all sources; None if the size of one is unknown."""
    bytes_read: int = 0
    records_in: int = 0
    """Records that the loader has read."""
    records_total: int | None = None
    """Records of the whole input; None until its end is read."""
    limit: int | None = None
    """Records that will be read at most."""
    before: Counts = Counts()  # noqa: RUF009  (frozen)
    """What earlier sessions of the run have written."""
    session: Counts = Counts()  # noqa: RUF009
    """What has been through the device in this session."""
    written: Counts = Counts()  # noqa: RUF009
    """What all sessions have written."""
    positions: int = 0
    """Token positions that were run in this session, padding included."""
    waiting_for: str | None = None
    """What the run waits for, as in "disk full (RUN): No space left"; set and cleared by any
    thread."""
    batches: int = 0
    batch_records: int = 0
    """Records of the last batch."""
    beats: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    """How often each stage has called `beat`."""
    busy_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    started: float = field(default_factory=time.monotonic)
    turn: contextlib.AbstractContextManager[object] = field(default_factory=contextlib.nullcontext)
    """Held by a stage while it works: a lock if stages must not overlap."""
    _history: deque[tuple[float, int, int]] = field(default_factory=deque)
    _running: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def done(self) -> int:
        """Records that have been through the device, measured or rejected, in all sessions."""
        return self.before.records + self.session.records

    @property
    def seconds(self) -> float:
        """Seconds since the first record was requested."""
        return time.monotonic() - self.started

    @property
    def per_second(self) -> float:
        """Records per second of the compute stage's working time."""
        return self.session.records / max(self.busy_seconds["compute"], 1e-9)

    def start(self) -> None:
        """Start the run's clock, now that the model is loaded."""
        self.started = time.monotonic()

    def begin_at(self, counts: Counts) -> None:
        """Begin with the counts of earlier sessions."""
        self.before = self.written = counts
        self.records_in = counts.records

    def count(self, result: Result) -> None:
        """Add the result of a batch."""
        self.session += result.counts
        self.positions += result.work.positions
        if result.records:
            self.batches += 1
            self.batch_records = len(result.records)

    @contextlib.contextmanager
    def busy(self, stage: str) -> Iterator[Clock]:
        """While inside, `stage` counts as working. First waits for the other stages if they must
        not overlap."""
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
        """Record that `stage` makes progress, or waits for something outside, such as its input.

        Anything that may take long while the stage is `busy` calls it: a stage without a beat
        counts as hung.
        """
        self.beats[stage] += 1

    def at_work(self) -> list[str]:
        """The stages that are `busy` now."""
        with self._lock:
            return list(self._running)

    def busy_so_far(self) -> dict[str, float]:
        """Seconds that each stage has worked, its present work included."""
        now = time.monotonic()
        with self._lock:
            return {
                stage: seconds + (now - self._running[stage] if stage in self._running else 0.0)
                for stage, seconds in self.busy_seconds.items()
            }

    def count_bytes(self, size: int) -> None:
        """Add `size` bytes that were read from a source; 0 means that none have come yet."""
        self.beat("load")
        with self._lock:
            self.bytes_read += size

    def rates(self) -> tuple[float, float]:
        """Records and tokens a second over the last `RATE_SECONDS`; to be called regularly."""
        now = time.monotonic()
        self._history.append((now, self.done, self.session.tokens))
        while now - self._history[0][0] > RATE_SECONDS and len(self._history) > 2:
            self._history.popleft()
        then, done, tokens = self._history[0]
        if now - then < 1.0:
            then, done, tokens = self.started, self.before.records, 0
        span = max(now - then, 1e-9)
        return (self.done - done) / span, (self.session.tokens - tokens) / span

    def total(self) -> float | None:
        """Records of the whole input. Until its end is read, an estimate from the share of bytes
        read, and at most the limit; None if neither is known."""
        if self.records_total is not None:
            return self.records_total
        if not self.bytes_total or not self.bytes_read or not self.records_in:
            return self.limit
        estimate = self.records_in * self.bytes_total / min(self.bytes_read, self.bytes_total)
        return estimate if self.limit is None else min(estimate, self.limit)

    def fraction(self) -> float | None:
        """The share of records that are done, 0 to 1; None while the total is unknown."""
        total = self.total()
        if total is None:
            return None
        return min(1.0, self.done / total) if total else 1.0

    def seconds_left(self, rate: float) -> float | None:
        """Seconds until all records are done, at `rate` records a second; None if unknown."""
        total = self.total()
        if total is None or not rate:
            return None
        return max(0.0, total - self.done) / rate
