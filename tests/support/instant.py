"""A worker that takes no time, and an input of any length for it."""

import threading
import time
from pathlib import Path

import numpy as np

from streamer.batches import Batch, Result, Work
from streamer.computing.worker import InFlight, Worker
from streamer.tables import METRICS
from support.processes import GOOD


class Instant(Worker):
    """The embedded worker but for the model: every number is the record's row."""

    def __init__(self, worker: Worker) -> None:
        self.__dict__.update(worker.__dict__)
        self.delay = 0.0
        """Seconds that a batch takes."""
        self.threads: set[int] = set()
        self.worked = threading.Event()

    def launch(self, batch: Batch) -> InFlight:
        self.threads.add(threading.get_ident())
        self.worked.set()
        time.sleep(self.delay)
        return InFlight(batch)

    def collect(self, in_flight: InFlight) -> Result:
        batch = in_flight.batch
        rows = np.array([record.origin.row for record in batch.records], dtype=float)
        values = np.repeat(rows[:, None], len(self.columns), axis=1) % 4
        return result_of(self, batch, values)


def result_of(worker: Worker, batch: Batch, values: np.ndarray) -> Result:
    """What `worker` says of `batch`, if the values of its metrics are these, [record, column]."""
    taken = dict.fromkeys(worker.tables.rows, ()) | {METRICS.name: (values,)}
    rows = worker.tables.made(batch.records, taken, (), batch.rejections)
    return Result(batch.window, batch.records, rows, batch.rejections, Work())


def many(folder: Path, count: int) -> str:
    path = folder / "in.jsonl"
    path.write_text(GOOD * count)
    return str(path)
