"""Takes snapshots of a run, in its own process."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from streamer.concurrency.queues import Queue
from streamer.device.memory import memory
from streamer.monitoring.counters import RATE_SECONDS, Counters
from streamer.monitoring.snapshot import Snapshot


@dataclass(slots=True)
class Observer:
    """Takes snapshots, and keeps a short history to know how busy each stage has been recently."""

    counters: Counters
    queues: Sequence[Queue[Any]]
    device: torch.device
    latest: Snapshot | None = None
    """The last snapshot, readable from any thread; only the event loop may call `look`."""
    _history: deque[tuple[float, dict[str, float]]] = field(default_factory=deque)

    def look(self) -> Snapshot:
        """A snapshot of the run now."""
        counters = self.counters
        rate, tokens = counters.rates()
        self.latest = Snapshot(
            done=counters.done,
            total=counters.total(),
            total_is_known=counters.records_total is not None,
            fraction=counters.fraction(),
            rejected=counters.written.rejected,
            batch_records=counters.batch_records,
            records_per_second=rate,
            tokens_per_second=tokens,
            seconds=counters.seconds,
            seconds_left=counters.seconds_left(rate),
            fill={queue.name: queue.fill for queue in self.queues},
            busy=self._busy(),
            memory=memory(self.device),
            note=counters.waiting_for,
        )
        return self.latest

    def _busy(self) -> dict[str, float]:
        now, busy = time.monotonic(), self.counters.busy_so_far()
        self._history.append((now, busy))
        while now - self._history[0][0] > RATE_SECONDS and len(self._history) > 2:
            self._history.popleft()
        then, before = self._history[0]
        span = max(now - then, 1e-9)
        return {stage: min(1.0, (busy[stage] - before[stage]) / span) for stage in busy}
