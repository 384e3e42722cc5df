"""Speed and error of the number formats, against float32.

    python -m bench.precision [--sample 48] [--seconds 2]

Each format runs the same planned batches, whole (model, SAEs, metrics), in turns; a slow one as
many of them as fit in `--seconds`. The error is that of the residuals of the first batch, relative
to float32's norm: the largest over passages and layers.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bench.options import Row
from bench.report import report
from bench.runs import compute, count_records, planned, run_parser, set_up, write_sample
from bench.timing import bfloat16_cost, in_turns, medians, seconds
from streamer.batches import Batch
from streamer.computing.worker import Worker
from streamer.planning.budget import Budget

FORMATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16 products": {"bf16": True},
    "fp16 products": {"fp16": True},
    "bfloat16 weights": {"dtype": "bfloat16"},
    "float64": {"dtype": "float64"},
}
CPU_TOKENS = 128
"""Positions of a batch on a CPU: small, so that a slow format can run a part of the records."""


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = run_parser(__doc__)
    parser.add_argument("--sample", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a format's turn, at most")
    options = parser.parse_args(arguments)
    setup = set_up(options)
    workers: dict[str, Worker] = {}
    for name, how in FORMATS.items():
        if "fp16" not in how or torch.cuda.is_available():  # a CPU runs it in bfloat16
            workers[name] = setup.worker(**{"bf16": False} | how)
    with tempfile.TemporaryDirectory() as folder:
        path = write_sample(setup.records, options.sample, Path(folder))
        tokens = CPU_TOKENS if setup.shape == "cpu" else setup.batch_tokens
        config = setup.config(paths=(str(path),))
        batches = planned(workers["float32"], config, Budget(tokens))
    taken = {name: _in_time(worker, batches, options.seconds) for name, worker in workers.items()}
    ways = {
        name: lambda worker=worker, some=taken[name]: (
            count_records(some) / seconds(lambda: compute(worker, some))
        )
        for name, worker in workers.items()
    }
    rates = medians(in_turns(ways, setup.repeats))
    errors = _errors(workers, batches[0])
    rows: list[Row] = [
        {
            "format": name,
            "records": count_records(taken[name]),
            "samples_per_second": rate,
            "ratio": rate / rates["float32"],
            "largest_error": f"{errors[name]:.1e}",
        }
        for name, rate in rates.items()
    ]
    cost = bfloat16_cost(workers["float32"].model.device)
    report("precision", rows, **setup.described(), bfloat16_product_over_float32=cost)


def _in_time(worker: Worker, batches: Sequence[Batch], most: float) -> Sequence[Batch]:
    """As many of the first `batches` as take about `most` seconds, at least one."""
    one = seconds(lambda: compute(worker, batches[:1]))
    if one < most:  # the first call is slower than others
        one = seconds(lambda: compute(worker, batches[:1]))
    return batches[: max(1, int(most / one))]


def _errors(workers: dict[str, Worker], batch: Batch) -> dict[str, float]:
    assert batch.rows is not None
    found = {name: worker.model.residuals(batch.rows).double() for name, worker in workers.items()}
    return {name: _error(x, found["float32"]) for name, x in found.items()}


def _error(
    x: Float[Tensor, "layer passage d_model"], expected: Float[Tensor, "layer passage d_model"]
) -> float:
    return float(((x - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


if __name__ == "__main__":
    main()
