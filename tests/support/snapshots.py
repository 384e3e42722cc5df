"""What a run may say of itself at some moment."""

from functools import partial
from pathlib import Path

from streamer.device.memory import Memory
from streamer.monitoring.snapshot import Snapshot
from streamer.monitoring.status import NAME, StatusFile
from streamer.writing.storage.local import LocalStorage

NOW = Snapshot(
    done=80, total=200.0, total_is_known=True, fraction=0.4, rejected=3, batch_records=16,
    records_per_second=8.5, tokens_per_second=512.0, seconds=9.4, seconds_left=14.1,
    fill={"loaded": 0.5, "batches": 1.0, "results": 0.0},
    busy={"load": 0.1, "plan": 0.0, "compute": 0.97, "write": 0.02},
    memory=Memory(900_000_000, 1_200_000_000, None, None),
)  # fmt: skip


def status_file(run: Path, title: str) -> StatusFile:
    """The status.json of the run directory `run`."""
    return StatusFile(partial(LocalStorage(run).post, NAME), title)
