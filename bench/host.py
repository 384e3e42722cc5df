"""What a record costs the host beside the device: reading and tokenizing it, planning, writing.

    python -m bench.host [--sample 8192]

Every stage runs alone, in its turn. A device can be fed no faster than the slowest of them; and as
Python runs one thread at a time, no faster than all of them together where it holds its lock. The
tokenizer, which does without that lock, uses all cores, as it does beside an accelerator. The
numbers that are written are random.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from bench.report import report
from bench.runs import Setup, batches_of, loaded, run_parser, set_up, write_sample
from streamer.batches import Batch, Result, Work
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.planning.budget import Budget
from streamer.running.load import gc_frozen
from streamer.writing.commit import Checkpoint, WrittenTable
from streamer.writing.storage.local import LocalStorage
from streamer.writing.writer import Writer

T = TypeVar("T")
PARALLEL = "TOKENIZERS_PARALLELISM"
STAGES = ("load", "plan", "write", "together")
TOKENS = 16_384
"""Positions of a batch, as an accelerator takes them."""


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = run_parser(__doc__)
    parser.add_argument("--sample", type=int, default=8192)
    options = parser.parse_args(arguments)
    # else a run on the CPU says false
    parallel = {PARALLEL: os.environ.get(PARALLEL, "true")}
    with patch.dict(os.environ, parallel), tempfile.TemporaryDirectory() as folder:
        setup = set_up(options)
        worker = setup.worker()
        path = write_sample(setup.records, options.sample, Path(folder))
        with gc_frozen():  # as while a run goes on
            turns = [
                _turn(setup, worker, path, Path(folder) / str(turn))
                for turn in range(options.repeats)
            ]
    rows = []
    for stage in STAGES:
        seconds = statistics.median(turn[stage] for turn in turns) / options.sample
        rows.append(
            {"stage": stage, "microseconds": 1e6 * seconds, "records_per_second": 1 / seconds}
        )
    report("host", rows, **setup.described(), records=options.sample, columns=len(worker.columns))


def _turn(setup: Setup, worker: Worker, path: Path, out: Path) -> dict[str, float]:
    """Seconds of each stage."""
    config = setup.config(paths=(str(path),), out=out)
    taken: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], T]) -> T:
        begin = time.perf_counter()
        found = work()
        taken[stage] = time.perf_counter() - begin
        return found

    loading = loaded(worker, config)
    first = next(loading)  # finding out how to tokenize is no record's cost
    chunks = [first, *timed("load", lambda: list(loading))]
    records = sum(len(chunk.records) for chunk in chunks)
    taken["load"] *= records / max(1, records - len(first.records))
    batches = timed("plan", lambda: batches_of(chunks, config, Budget(TOKENS), worker.packing))
    random = np.random.default_rng(0)
    numbers = [random.random((len(batch.records), len(worker.columns))) for batch in batches]
    timed("write", lambda: _write(worker, config, out, zip(batches, numbers, strict=True)))
    return taken | {"together": sum(taken.values())}


def _write(
    worker: Worker,
    config: RunConfig,
    out: Path,
    measured: Iterable[tuple[Batch, npt.NDArray[np.float64]]],
) -> None:
    """Make rows, as the compute stage does, and write them."""
    tables = worker.tables
    out.mkdir()
    writer = Writer(
        LocalStorage(out),
        config,
        [WrittenTable(one.name, tables.rows[one.name].schema, one.leads) for one in tables.tables],
        on_part=lambda *_: None,
        begin=Checkpoint(),
    )
    for batch, values in measured:
        taken = dict.fromkeys(tables.rows, (values,))
        rows = tables.made(batch.records, taken, (), ())
        writer.add(Result(batch.window, batch.records, rows, (), Work()))
    writer.close()


if __name__ == "__main__":
    main()
