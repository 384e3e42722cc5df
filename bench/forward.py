"""The native forward pass against TransformerLens' bridge: residuals only, on the same rows.

    python -m bench.forward [--sample 32] [--long-rows 1]

Rows of one passage each (the bridge takes no tries), and rows of 1024 random tokens, in turns. Load
time and peak memory are those of a process for each, which loads and runs the first batch.
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import get_args

import torch

from bench.options import Row
from bench.processes import measure_alone
from bench.report import report
from bench.runs import Setup, count_records, forward, planned_sample, run_parser, set_up
from bench.timing import in_turns, medians, seconds
from streamer.batches import Batch, Window
from streamer.computing.worker import Worker
from streamer.config import Forward
from streamer.planning.packing import Packing

PASSES: tuple[Forward, ...] = tuple(name for name in get_args(Forward) if name != "auto")
LONG = 1024
LONG_ROWS = {"cpu": 1, "gpu": 4}


def main(arguments: list[str] | None = None) -> None:
    """Run and report; with `--only`, load and run one and print a line of JSON."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = run_parser(__doc__)
    parser.add_argument("--sample", type=int, default=32)
    parser.add_argument("--long-rows", type=int)
    parser.add_argument("--only", choices=PASSES)
    options = parser.parse_args(arguments)
    setup = set_up(options)
    if options.only:
        print(json.dumps(_load_and_run(setup, options.only)))
        return
    workers = {name: setup.worker(forward=name, sharing="prefix") for name in PASSES}
    texts = {
        "records": planned_sample(setup, workers["native"], options.sample),
        "long": [_long(workers["native"], options.long_rows or LONG_ROWS[setup.shape])],
    }
    for worker in workers.values():
        forward(worker, texts["records"][:1])  # warm-up
    device = workers["native"].model.device
    ways = {
        f"{name} {text}": lambda worker=worker, batches=batches: seconds(
            lambda: forward(worker, batches), device
        )
        for text, batches in texts.items()
        for name, worker in workers.items()
    }
    took = medians(in_turns(ways, setup.repeats))
    alone = {name: measure_alone("bench.forward", arguments, name) for name in PASSES}
    rows: list[Row] = [
        {
            "forward": name,
            "text": text,
            "seconds": took[f"{name} {text}"],
            "tokens_per_second": sum(batch.rows.count for batch in batches if batch.rows)
            / took[f"{name} {text}"],
            "ratio": took[f"bridge {text}"] / took[f"{name} {text}"],
            **alone[name],
        }
        for text, batches in texts.items()
        for name in PASSES
    ]
    report("forward", rows, **setup.described(), records=count_records(texts["records"]))


def _long(worker: Worker, count: int) -> Batch:
    """Rows of random tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(worker.model.tokenizer), (count, LONG), generator=generator)
    return Batch(Window(0, count), (), (), Packing("none", LONG).pack_passages(ids.tolist()))


def _load_and_run(setup: Setup, name: Forward) -> Row:
    begin = time.perf_counter()
    worker = setup.worker(forward=name, sharing="prefix")
    took = time.perf_counter() - begin
    compared: Sequence[Batch] = planned_sample(setup, worker, 8)
    forward(worker, compared)
    return {"load_seconds": took}


if __name__ == "__main__":
    main()
