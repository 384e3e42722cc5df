"""Samples a second and peak memory by batch size, on the benchmark model.

    python -m bench.batch_sizes [--sizes 1,4,8,16,32] [--sample 64]

The runs of all sizes take turns in one process, with the model loaded once. Size 1 takes a quarter
of the sample. `adaptive` is the default, which finds the size while running, and so takes three
times as many. Peak memory is that of the first turn.
"""

import tempfile
from pathlib import Path
from typing import Any

from bench.options import Row
from bench.report import report
from bench.runs import Setup, run_parser, set_up, whole_run, write_sample
from bench.timing import in_turns, medians
from streamer.computing.worker import Worker
from streamer.device.memory import PeakMemory

ADAPTIVE = "adaptive"
PLENTY = 2**20
"""Positions that no batch reaches, so that records alone bound it."""
WARM_UP = 8


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = run_parser(__doc__)
    parser.add_argument("--sizes", default="1,4,8,16,32")
    parser.add_argument("--sample", type=int, default=64)
    options = parser.parse_args(arguments)
    setup = set_up(options)
    sizes = [*options.sizes.split(","), ADAPTIVE]
    peaks: dict[str, int] = {}

    def rate(size: str) -> float:
        with PeakMemory(worker.model.device) as peak:
            found = _rate(setup, worker, size, samples[size])
        peaks.setdefault(size, peak.bytes)
        return found

    with tempfile.TemporaryDirectory() as folder:
        worker = setup.worker()
        samples = {size: _sample(setup, options.sample, size, Path(folder)) for size in sizes}
        _rate(setup, worker, "1", write_sample(setup.records, WARM_UP, Path(folder)))
        rates = in_turns({size: lambda size=size: rate(size) for size in sizes}, setup.repeats)
        counts = {size: _count(path) for size, path in samples.items()}
    middle = medians(rates)
    rows: list[Row] = [
        {
            "batch_size": size,
            "records": counts[size],
            "samples_per_second": rate,
            "speed_up": rate / middle[sizes[0]],
            "slowest": min(rates[size]),
            "fastest": max(rates[size]),
            "peak_memory_mb": peaks[size] / 1e6,
        }
        for size, rate in middle.items()
    ]
    report("batch_sizes", rows, **setup.described())


def _sample(setup: Setup, count: int, size: str, folder: Path) -> Path:
    part = {"1": 0.25, ADAPTIVE: 3.0}.get(size, 1.0)
    return write_sample(setup.records, max(1, round(count * part)), folder)


def _count(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def _rate(setup: Setup, worker: Worker, size: str, path: Path) -> float:
    how: dict[str, Any] = {}
    if size != ADAPTIVE:
        how = {"batch_size": int(size), "max_tokens": PLENTY}
    return whole_run(worker, setup.config(paths=(str(path),), **how)).per_second


if __name__ == "__main__":
    main()
