"""How long a row should be into which several passages are packed.

    python -m bench.row_length [--lengths 32,128,512,2048] [--sample 192]

Batches of as many positions as the longest row has, or those of the other benchmarks where they are
larger; the transformer alone, in turns. Longer rows share more and have larger squares of
attention; shorter ones give records beyond half their length rows of their own.
"""

import dataclasses
import tempfile
from pathlib import Path

from bench.report import report
from bench.runs import (
    count_records,
    count_tokens,
    forward,
    planned,
    run_parser,
    set_up,
    write_sample,
)
from bench.timing import in_turns, medians, seconds
from streamer.planning.budget import Budget


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = run_parser(__doc__)
    parser.add_argument("--lengths", default="32,128,512,2048")
    parser.add_argument("--sample", type=int, default=192)
    options = parser.parse_args(arguments)
    setup = set_up(options)
    worker = setup.worker()
    lengths = options.lengths.split(",")
    batch_tokens = max(setup.batch_tokens, *map(int, lengths))
    with tempfile.TemporaryDirectory() as folder:
        config = setup.config(
            paths=(str(write_sample(setup.records, options.sample, Path(folder))),)
        )
        batches = {
            length: planned(
                worker,
                config,
                Budget(batch_tokens),
                dataclasses.replace(worker.packing, row_length=int(length)),
            )
            for length in lengths
        }
    device = worker.model.device
    ways = {
        length: lambda own=own: seconds(lambda: forward(worker, own), device)
        for length, own in batches.items()
    }
    forward(worker, batches[lengths[0]][:1])  # warm-up
    took = medians(in_turns(ways, setup.repeats))
    count = count_records(batches[lengths[0]])
    rows = [
        {
            "row_length": int(length),
            "tokens_per_record": count_tokens(own) / count,
            "positions_per_record": sum(batch.rows.size for batch in own if batch.rows) / count,
            "tokens_per_second": count_tokens(own) / took[length],
            "samples_per_second": count / took[length],
            "ratio_to_best": min(took.values()) / took[length],
        }
        for length, own in batches.items()
    ]
    report("row_length", rows, **setup.described(), records=count, batch_tokens=batch_tokens)


if __name__ == "__main__":
    main()
