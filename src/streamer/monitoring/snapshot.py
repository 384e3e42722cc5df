"""The state of a run at one moment: every number that any display shows. Imports no torch, which
`streamer watch` does not need."""

from collections.abc import Mapping
from dataclasses import dataclass

from streamer.device.memory import Memory


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run at one moment."""

    done: int
    """Records that have been through the device, measured or rejected."""
    total: float | None
    """Records of the whole input; None while not even an estimate is possible."""
    total_is_known: bool
    """Whether the input's end was read; before that, the total is an estimate."""
    fraction: float | None
    """`done` divided by `total`, 0 to 1."""
    rejected: int
    """Records that were rejected."""
    batch_records: int
    """Records of the last batch."""
    records_per_second: float
    tokens_per_second: float
    seconds: float
    seconds_left: float | None
    fill: Mapping[str, float]
    """How full each queue is, 0 to 1."""
    busy: Mapping[str, float]
    """Share of the last `RATE_SECONDS` in which each stage worked, 0 to 1."""
    memory: Memory
    note: str | None = None
    """What the run waits for now, or why it ended."""

    @property
    def slowest(self) -> str:
        """The busiest stage: the others wait for it."""
        return max(self.busy, key=lambda stage: self.busy[stage])
