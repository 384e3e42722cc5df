"""Samples a second by batch size, on the embedded model and records.

    python -m bench.batch_sizes [--sizes 1,4,16,64] [--repeats 3]

Runs in one process with the model loaded once; each size is run `repeats` times, in turns, and the
median is reported, so that what else the machine does falls on all sizes alike.
"""

import argparse
import io
import statistics
import tempfile
from pathlib import Path

import anyio
from rich.console import Console

from bench.report import report
from streamer.config import RunConfig
from streamer.execution import run_loaded
from streamer.monitoring.warnings import LibraryWarnings
from streamer.preparation import prepare
from streamer.worker import Worker, load_worker


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1,4,16,64")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.sizes.split(",")]
    worker = load_worker(RunConfig(), "contrast")
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(options.repeats):
        for size in sizes:
            rates[size].append(_rate(worker, size))
    medians = {size: statistics.median(found) for size, found in rates.items()}
    rows = [
        {
            "batch_size": size,
            "samples_per_second": rate,
            "speed_up": rate / medians[sizes[0]],
            "slowest": min(rates[size]),
            "fastest": max(rates[size]),
        }
        for size, rate in medians.items()
    ]
    report("batch_sizes", rows, model="embedded", repeats=options.repeats)


def _rate(worker: Worker, size: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(out=Path(folder) / "RUN", batch_size=size, progress="none")
        console = Console(file=io.StringIO())
        summary = anyio.run(run_loaded, prepare(config), worker, console, LibraryWarnings())
        return summary.per_second


if __name__ == "__main__":
    main()
