"""Computing in the only thread that has computed, against another one being there.

    python -m bench.teams [--sample 104]

For each thread that has shared its work out, OpenMP keeps others ready while it lives; where they
are more than the cores, all of them sleep at once when they have to wait. That is why a run loads
the model in a thread that ends.
"""

from concurrent.futures import ThreadPoolExecutor
from statistics import median

import torch

from bench.options import Row
from bench.report import report
from bench.runs import compute, count_records, planned_sample, run_parser, set_up
from bench.timing import seconds
from streamer.concurrency.threads import in_own_thread


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = run_parser(__doc__, repeats=6)
    parser.add_argument("--sample", type=int, default=104)
    options = parser.parse_args(arguments)
    setup = set_up(options)
    worker = setup.worker()
    batches = planned_sample(setup, worker, options.sample)

    def alone() -> float:
        return in_own_thread(lambda: seconds(lambda: compute(worker, batches), worker.model.device))

    def beside_another() -> float:
        with ThreadPoolExecutor(1) as other:
            other.submit(_share_out).result()
            return alone()

    alone()  # warm-up
    ways = {"only": alone, "one of two": beside_another}
    turns = []
    for turn in range(setup.repeats):
        order = reversed(ways) if turn % 2 else ways  # a drift favours neither
        turns.append({way: ways[way]() for way in order})
    count = count_records(batches)
    rows: list[Row] = [
        {
            "thread": way,
            "samples_per_second": count / median(turn[way] for turn in turns),
            "ratio": median(turn["one of two"] / turn[way] for turn in turns),
        }
        for way in ways
    ]
    report(
        "teams",
        rows,
        **setup.described(),
        records=count,
        batch_tokens=setup.batch_tokens,
        seconds=turns,
    )


def _share_out() -> None:
    x = torch.ones(1024, 1024)
    torch.tanh(x @ x)


if __name__ == "__main__":
    main()
