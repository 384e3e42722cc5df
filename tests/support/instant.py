"""A worker that takes no time, and an input of any length for it."""

import threading
import time
from pathlib import Path

import numpy as np

from streamer.records import Batch, Result, Work
from support.processes import GOOD


class Instant:
    """The embedded worker but for the model: every number is the record's row."""

    def __init__(self, worker, fail_at: int | None = None, delay: float = 0.0) -> None:
        self.worker = worker
        self.fail_at = fail_at
        self.delay = delay
        self.threads: set[int] = set()
        self.worked = threading.Event()

    def __getattr__(self, name):
        return getattr(self.worker, name)

    def feed(self, batch: Batch) -> list[Result]:
        self.threads.add(threading.get_ident())
        self.worked.set()
        time.sleep(self.delay)
        rows = np.array([record.origin.row for record in batch.records], dtype=float)
        if self.fail_at in rows:
            raise ValueError("a stage broke")
        values = np.repeat(rows[:, None], len(self.worker.columns), axis=1) % 4
        return [Result(batch.window, batch.records, values, batch.rejections, Work())]


def many(folder: Path, count: int) -> str:
    path = folder / "in.jsonl"
    path.write_text(GOOD * count)
    return str(path)
