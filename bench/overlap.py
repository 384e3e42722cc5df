"""What it gains to read, compute and write at the same time.

    python -m bench.overlap [--count 1600]

Whole runs with and without `--no-overlap`, in turns: of a local file, where there is little to
overlap, and of the same file on a slow disk, which takes as long to read as to compute (measured in
a first run). The best that overlapping can do then is a ratio of 2. In the CPU's shape it runs the
embedded model, which is quick enough to run many records.
"""

import tempfile
from pathlib import Path
from typing import Any

from bench.report import report
from bench.runs import Setup, run_parser, set_up, whole_run, write_sample
from bench.throttled import throttled
from bench.timing import in_turns, medians
from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.concurrency.threads import in_own_thread
from streamer.config import RunConfig

COUNTS = {"cpu": 1600, "gpu": 8000}
OVERLAP = {"on": True, "off": False}


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = run_parser(__doc__)
    parser.add_argument("--count", type=int, help="records of a run")
    options = parser.parse_args(arguments)
    setup = set_up(options)
    worker = in_own_thread(lambda: load_worker(_config(setup), "contrast"))
    with tempfile.TemporaryDirectory() as folder:
        path = write_sample(setup.records, options.count or COUNTS[setup.shape], Path(folder))
        size = path.stat().st_size
        _run(setup, worker, str(path), overlap=True)  # warm-up
        first = _run(setup, worker, str(path), overlap=False)
        inputs = {"local": str(path), "slow": throttled(path, size / first["compute"])}
        stages: dict[str, dict[str, float]] = {}

        def seconds(disk: str, overlap: str) -> float:
            found = _run(setup, worker, inputs[disk], overlap=OVERLAP[overlap])
            stages[f"{disk} {overlap}"] = found
            return found["all"]

        ways = {
            (disk, overlap): lambda disk=disk, overlap=overlap: seconds(disk, overlap)
            for disk in inputs
            for overlap in OVERLAP
        }
        found = in_turns({" ".join(key): way for key, way in ways.items()}, setup.repeats)
    middle = medians(found)
    rows = [
        {
            "disk": disk,
            "overlap": overlap,
            "seconds": middle[f"{disk} {overlap}"],
            "ratio": middle[f"{disk} off"] / middle[f"{disk} {overlap}"],
            **{
                f"{stage}_s": s
                for stage, s in stages[f"{disk} {overlap}"].items()
                if stage != "all"
            },
        }
        for disk, overlap in ways
    ]
    report(
        "overlap",
        rows,
        **setup.described() | ({"model": "embedded"} if setup.shape == "cpu" else {}),
        input_bytes=size,
        slow_bytes_per_second=size / first["compute"],
    )


def _config(setup: Setup, **changes: Any) -> RunConfig:
    if setup.shape == "gpu":
        return setup.config(**changes)
    return RunConfig(device=setup.device, bf16=setup.bf16, progress="none", **changes)


def _run(setup: Setup, worker: Worker, path: str, *, overlap: bool) -> dict[str, float]:
    """Seconds in all, and of each stage."""
    summary = whole_run(worker, _config(setup, paths=(path,), overlap=overlap))
    return {"all": summary.seconds, **summary.counters.busy_so_far()}


if __name__ == "__main__":
    main()
