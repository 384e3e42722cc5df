"""One look at a run: every number that any display shows, taken at one moment. No torch here: who
watches from outside has none."""

from collections.abc import Mapping
from dataclasses import dataclass

from streamer.device.memory import Memory


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
    note: str | None = None
    """What it has trouble with at this moment, or why it ended."""

    @property
    def slowest(self) -> str:
        """The stage that holds the others back: the busiest one."""
        return max(self.busy, key=lambda stage: self.busy[stage])
