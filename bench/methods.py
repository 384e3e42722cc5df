"""streamer against the same job done by hand (see bench/by_hand.py), on the same model and records.

    python -m bench.methods [--records PATH] [--tokenizer DIRECTORY] [--shape cpu|gpu]
                            [--sample 16] [--streamer-records N] [--repeats 3]

Every measurement is a process of its own, so that its peak memory is its own; the methods take
turns, `repeats` times, and the median is reported. The ways by hand run on records chosen evenly:
`sample` of them, half as many for `sequential`, a quarter for `separate`. streamer runs all, or the
first N, from which the others are then chosen.

The first load of a model is left out of every rate. `separate` loads it three times more, which
counts as it would over all records: seconds a record = 3 × mean load / all records + running.

The numbers must agree: after the last turn, columns of every way by hand are compared with
streamer's, and the benchmark fails if they differ.
"""

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import torch
from rich.console import Console

from bench.agreement import disagreement
from bench.by_hand import WAYS, Loader
from bench.model import SHAPES, BenchModel, bench_model
from bench.options import Row, add_data_options, contrast_records
from bench.report import report
from streamer.config import RunConfig
from streamer.execution import run_loaded
from streamer.monitoring.warnings import LibraryWarnings
from streamer.preparation import prepare
from streamer.worker import load_worker

STREAMER: dict[str, dict[str, Any]] = {"streamer": {}, "streamer bf16": {"bf16": True}}
METHODS = (*WAYS, *STREAMER)
PART = {"batched script": 1, "sequential": 2, "separate": 4}
"""By what the sample is divided."""
ROWS = "rows.json"
"""What a way by hand writes into its folder; streamer writes RUN."""
WARM_UP = 64
"""Records that streamer runs before it is measured; the ways by hand run a token."""


def main(arguments: list[str] | None = None) -> None:
    """Run and report; with `--only`, measure one method and print a line of JSON."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _options(arguments)
    if options.only:
        print(json.dumps(_measure(options)))
        return
    _make_model(options)
    model = bench_model(options.tokenizer, SHAPES[options.shape])
    found: dict[str, list[Row]] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeats):
            turns = Path(folder) / str(turn)
            for name in METHODS:
                found[name].append(_in_own_process(arguments, name, turns / name))
        differing = {
            way: disagreement(way, turns / way / ROWS, turns / "streamer" / "RUN", model.layers)
            for way in WAYS
        }
    report(
        "methods",
        _rows(found),
        model=model.settings,
        records=len(contrast_records(options.records)),
        repeats=options.repeats,
        loads={way: found[way][0]["loads"] for way in WAYS},
        load_seconds={
            way: statistics.median(one["load_seconds"] for one in found[way]) for way in WAYS
        },
        values_that_differ=differing,
    )


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_options(parser)
    parser.add_argument("--shape", choices=SHAPES, default="cpu")
    parser.add_argument("--sample", type=int, default=16)
    parser.add_argument("--streamer-records", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _rows(found: dict[str, list[Row]]) -> list[Row]:
    seconds = {
        name: statistics.median(one["seconds"] for one in runs) for name, runs in found.items()
    }
    return [
        {
            "method": name,
            "records": runs[0]["records"],
            "seconds_per_1000": 1000 * seconds[name],
            "samples_per_second": 1 / seconds[name],
            "over_batched": seconds["batched script"] / seconds[name],
            "over_separate": seconds["separate"] / seconds[name],
            **{key: max(one[key] for one in runs) for key in runs[0] if key.endswith("_mb")},
        }
        for name, runs in found.items()
    ]


def _make_model(options: argparse.Namespace) -> None:
    """In a process of its own: a child's peak memory begins at that of the process it came from."""
    command = [sys.executable, "-m", "bench.model", "--shape", options.shape]
    if options.tokenizer:
        command += ["--tokenizer", str(options.tokenizer)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _in_own_process(arguments: list[str], name: str, into: Path) -> Row:
    into.mkdir(parents=True)
    command = [sys.executable, "-m", "bench.methods", *arguments]
    done = subprocess.run(
        [*command, "--only", name, "--into", str(into)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    measured: Row = json.loads(done.stdout.splitlines()[-1])
    return measured


def _measure(options: argparse.Namespace) -> Row:
    model = bench_model(options.tokenizer, SHAPES[options.shape])
    measured = _streamer(model, options) if options.only in STREAMER else _by_hand(model, options)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    measured["peak_memory_mb"] = peak * unit / 1e6
    if torch.cuda.is_available():
        measured["peak_device_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return measured


def _by_hand(model: BenchModel, options: argparse.Namespace) -> Row:
    records = contrast_records(options.records)
    among = min(len(records), options.streamer_records or len(records))
    count = min(among, max(1, options.sample // PART[options.only]))
    places = [i * among // count for i in range(count)]
    loader = Loader(model)
    begin = time.perf_counter()
    rows = WAYS[options.only](loader, [records[place] for place in places])
    running = time.perf_counter() - begin - sum(loader.times)
    placed = [{"row": place, **row} for place, row in zip(places, rows, strict=True)]
    (options.into / ROWS).write_text(json.dumps(placed))
    load_seconds, loads = statistics.mean(loader.times), len(loader.times)
    return {
        "records": count,
        "seconds": (loads - 1) * load_seconds / len(records) + running / count,
        "loads": loads,
        "load_seconds": load_seconds,
    }


def _streamer(model: BenchModel, options: argparse.Namespace) -> Row:
    settings: dict[str, Any] = {
        "paths": (str(options.records),),
        "model": str(model.path),
        "sae": model.sae,
        "layers": model.layers,
        "progress": "none",
        **STREAMER[options.only],
    }
    worker = load_worker(RunConfig(**settings), "contrast")
    for name, limit in (("WARM_UP", WARM_UP), ("RUN", options.streamer_records)):
        config = RunConfig(**settings, out=options.into / name, limit=limit)
        console = Console(file=io.StringIO())
        summary = anyio.run(run_loaded, prepare(config), worker, console, LibraryWarnings())
    return {"records": summary.counters.done, "seconds": 1 / summary.per_second}


if __name__ == "__main__":
    main()
