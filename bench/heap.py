"""The C heap of a CPU: kept, as the command does, against given back, as glibc does by itself.

    python -m bench.heap [--sample 104]

Whole runs, each way in a process of its own, in turns. Beside their rate, for each run: the CPU's
time, which other work on the machine moves less, and how often a page had to be mapped.
"""

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench.options import Row
from bench.processes import measure_alone
from bench.report import report
from bench.runs import run_parser, set_up, whole_run, write_sample

WAYS = ("given back", "kept")
RUNS = 2
"""That are measured in a process, after one that is not."""


def main(arguments: list[str] | None = None) -> None:
    """Run and report; with `--only`, measure one way and print a line of JSON."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = run_parser(__doc__)
    parser.add_argument("--sample", type=int, default=104)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only:
        print(json.dumps(_measure(options)))
        return
    setup = set_up(options, keeps_heap=False)  # makes the model, if need be
    turns = []
    for turn in range(options.repeats):
        order = reversed(WAYS) if turn % 2 else WAYS
        turns.append({way: measure_alone("bench.heap", arguments, way) for way in order})
    rows: list[Row] = [
        {
            "heap": way,
            **{what: median(turn[way][what] for turn in turns) for what in turns[0][way]},
            "cpu_speed_up": median(
                turn["given back"]["cpu_seconds"] / turn[way]["cpu_seconds"] for turn in turns
            ),
        }
        for way in WAYS
    ]
    report("heap", rows, **setup.described(), records=options.sample)


def _measure(options: argparse.Namespace) -> Row:
    setup = set_up(options, keeps_heap=options.only == "kept")
    worker = setup.worker()
    with tempfile.TemporaryDirectory() as folder:
        sample = write_sample(setup.records, options.sample, Path(folder))
        config = setup.config(paths=(str(sample),), max_tokens=setup.batch_tokens)
        whole_run(worker, config)
        before = resource.getrusage(resource.RUSAGE_SELF)
        rates = [whole_run(worker, config).per_second for _ in range(RUNS)]
        after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "samples_per_second": median(rates),
        "cpu_seconds": spent / RUNS,
        "page_faults": (after.ru_minflt - before.ru_minflt) / RUNS,
    }


if __name__ == "__main__":
    main()
