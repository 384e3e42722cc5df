"""What it gains to run shared tokens once: no sharing, shared prefixes, tries.

    python -m bench.sharing [--sample 48]

The same records are planned in three ways and run in turns by one worker: the transformer alone,
and the whole with SAEs and metrics.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import get_args

from bench.report import report
from bench.runs import (
    compute,
    count_records,
    count_tokens,
    forward,
    planned,
    run_parser,
    set_up,
    write_sample,
)
from bench.timing import in_turns, medians, seconds
from streamer.config import Sharing
from streamer.planning.budget import Budget

KINDS: tuple[Sharing, ...] = tuple(reversed(get_args(Sharing)))


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = run_parser(__doc__)
    parser.add_argument("--sample", type=int, default=48)
    options = parser.parse_args(arguments)
    setup = set_up(options)
    worker = setup.worker()
    if worker.packing.sharing != "trie":
        raise SystemExit("the benchmark model takes no tries: " + "; ".join(worker.model.notes))
    with tempfile.TemporaryDirectory() as folder:
        config = setup.config(
            paths=(str(write_sample(setup.records, options.sample, Path(folder))),)
        )
        batches = {
            kind: planned(
                worker,
                config,
                Budget(setup.batch_tokens),
                dataclasses.replace(worker.packing, sharing=kind),
            )
            for kind in KINDS
        }
    compute(worker, batches["trie"][:1])  # warm-up
    device = worker.model.device
    ways = {}
    for kind in KINDS:
        own = batches[kind]
        ways[f"forward {kind}"] = lambda own=own: seconds(lambda: forward(worker, own), device)
        ways[f"whole {kind}"] = lambda own=own: seconds(lambda: compute(worker, own), device)
    took = medians(in_turns(ways, setup.repeats))
    count = count_records(batches["none"])
    rows = [
        {
            "sharing": kind,
            "batches": len(batches[kind]),
            "tokens_per_record": count_tokens(batches[kind]) / count,
            "positions_per_record": sum(b.rows.size for b in batches[kind] if b.rows) / count,
            "forward_samples_per_second": count / took[f"forward {kind}"],
            "forward_ratio": took["forward none"] / took[f"forward {kind}"],
            "samples_per_second": count / took[f"whole {kind}"],
            "ratio": took["whole none"] / took[f"whole {kind}"],
        }
        for kind in KINDS
    ]
    report("sharing", rows, **setup.described(), records=count, batch_tokens=setup.batch_tokens)


if __name__ == "__main__":
    main()
