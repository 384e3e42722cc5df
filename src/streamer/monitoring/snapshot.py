"""One look at a run: every number that any display shows, taken at one moment."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from streamer.monitoring.counters import RATE_SECONDS, Counters
from streamer.monitoring.memory import Memory, memory
from streamer.queues import Queue


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of a run now."""

    done: int
    total: float | None
    """Records, good and bad; None while there is nothing to go by."""
    total_is_known: bool
    """Whether the input has ended; before that the total is an estimate."""
    fraction: float | None
    rejected: int
    batch_records: int
    records_per_second: float
    tokens_per_second: float
    seconds: float
    seconds_left: float | None
    fill: Mapping[str, float]
    """How full each queue is, 0 to 1."""
    busy: Mapping[str, float]
    """Share of the last seconds in which each stage worked, 0 to 1."""
    memory: Memory

    @property
    def slowest(self) -> str:
        """The stage that holds the others back: the busiest one."""
        return max(self.busy, key=lambda stage: self.busy[stage])


@dataclass(slots=True)
class Observer:
    """Takes snapshots; remembers enough to tell the share of work of the last seconds."""

    counters: Counters
    queues: Sequence[Queue[Any]]
    device: torch.device
    _history: deque[tuple[float, dict[str, float]]] = field(default_factory=deque)

    def look(self) -> Snapshot:
        """The run as it is now."""
        counters = self.counters
        rate, tokens = counters.rates()
        return Snapshot(
            done=counters.done,
            total=counters.total(),
            total_is_known=counters.records_total is not None,
            fraction=counters.fraction(),
            rejected=counters.rejected,
            batch_records=counters.batch_records,
            records_per_second=rate,
            tokens_per_second=tokens,
            seconds=counters.seconds,
            seconds_left=counters.seconds_left(rate),
            fill={queue.name: queue.fill for queue in self.queues},
            busy=self._busy(),
            memory=memory(self.device),
        )

    def _busy(self) -> dict[str, float]:
        now, busy = time.monotonic(), self.counters.busy_so_far()
        self._history.append((now, busy))
        while now - self._history[0][0] > RATE_SECONDS and len(self._history) > 2:
            self._history.popleft()
        then, before = self._history[0]
        span = max(now - then, 1e-9)
        return {stage: min(1.0, (busy[stage] - before[stage]) / span) for stage in busy}
