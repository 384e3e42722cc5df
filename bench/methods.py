"""streamer against the same job done by hand (see bench/by_hand.py), on the same model and records.

    python -m bench.methods [--records PATH] [--tokenizer DIRECTORY] [--shape cpu|gpu]
                            [--sample 8] [--streamer-records 192] [--repeats 3]

Every measurement is a process of its own, so that its peak memory is its own; the methods take
turns, `repeats` times, and the median is reported. The ways by hand run on records chosen evenly:
`sample` of them, half as many for `sequential`, a quarter for `separate`. streamer runs the first
`--streamer-records`, from which the others are then chosen; 0 for all. Where the device has no
instructions for bfloat16 products, streamer's bf16 runs once, and few records.

The first load of a model is left out of every rate. `separate` loads it three times more, which
counts as it would over all records: seconds a record = 3 × mean load / all records + running.

The numbers must agree: after the last turn, columns of every way by hand are compared with
streamer's, and the benchmark fails if they differ.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import torch

from bench.agreement import disagreement
from bench.by_hand import WAYS, Loader
from bench.model import SHAPES, BenchModel, bench_model
from bench.options import Row, add_data_options, contrast_records
from bench.processes import measure_alone
from bench.report import report
from bench.runs import write_sample
from bench.timing import bfloat16_cost
from streamer.computing.load import load_worker
from streamer.concurrency.threads import in_own_thread
from streamer.config import RunConfig
from streamer.running.prepare import prepare
from streamer.running.run import run as run_prepared

BF16 = "streamer bf16"
STREAMER: dict[str, dict[str, Any]] = {"streamer": {}, BF16: {"bf16": True}}
METHODS = (*WAYS, *STREAMER)
FEW = 24
"""Records that bf16 runs where it is slow."""
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
    model = bench_model(options.tokenizer, SHAPES[options.shape])
    records = len(contrast_records(options.records))
    bf16_cost = bfloat16_cost("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, list[Row]] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        sample = write_sample(options.records, options.streamer_records or records, Path(folder))
        arguments = [*arguments, "--records", str(sample), "--in-all", str(records)]
        for turn in range(options.repeats):
            turns = Path(folder) / str(turn)
            for name in METHODS:
                slow = name == BF16 and bf16_cost > 1
                if slow and turn:
                    continue
                few = ["--limit", str(FEW)] if slow else []
                into = turns / name
                into.mkdir(parents=True)
                command = [*arguments, *few, "--into", str(into)]
                found[name].append(measure_alone("bench.methods", command, name))
        differing = {
            way: disagreement(way, turns / way / ROWS, turns / "streamer" / "RUN", model.layers)
            for way in WAYS
        }
    report(
        "methods",
        _rows(found),
        model=model.settings,
        records=records,
        repeats=options.repeats,
        loads={way: found[way][0]["loads"] for way in WAYS},
        load_seconds={
            way: statistics.median(one["load_seconds"] for one in found[way]) for way in WAYS
        },
        values_that_differ=differing,
        bfloat16_product_over_float32=bf16_cost,
        bfloat16=f"instructions: {'none' if bf16_cost > 1 else 'there are'}",
    )


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--shape", choices=SHAPES, default="cpu")
    parser.add_argument("--sample", type=int, default=8)
    parser.add_argument("--streamer-records", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--in-all", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
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


def _measure(options: argparse.Namespace) -> Row:
    model = bench_model(options.tokenizer, SHAPES[options.shape])
    measured = _streamer(model, options) if options.only in STREAMER else _by_hand(model, options)
    if torch.cuda.is_available():
        measured["peak_device_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return measured


def _by_hand(model: BenchModel, options: argparse.Namespace) -> Row:
    records = contrast_records(options.records)
    count = min(len(records), max(1, options.sample // PART[options.only]))
    places = [i * len(records) // count for i in range(count)]
    loader = Loader(model)
    begin = time.perf_counter()
    rows = WAYS[options.only](loader, [records[place] for place in places])
    running = time.perf_counter() - begin - sum(loader.times)
    placed = [{"row": place, **row} for place, row in zip(places, rows, strict=True)]
    (options.into / ROWS).write_text(json.dumps(placed))
    load_seconds, loads = statistics.mean(loader.times), len(loader.times)
    return {
        "records": count,
        "seconds": (loads - 1) * load_seconds / options.in_all + running / count,
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
    worker = in_own_thread(lambda: load_worker(RunConfig(**settings), "contrast"))  # as a run does
    for name, limit in (
        ("WARM_UP", min(WARM_UP, options.limit or WARM_UP)),
        ("RUN", options.limit),
    ):
        config = RunConfig(**settings, out=options.into / name, limit=limit)
        summary = anyio.run(run_prepared, prepare(config), worker)
    return {"records": summary.counters.done, "seconds": 1 / summary.per_second}


if __name__ == "__main__":
    main()
