"""How much of the machine a run uses: against the bare computation, and against matrix products.

    python -m bench.efficiency [--sample 256]

bare: the same batches as those of a first run, without reading, planning and writing; it takes
turns with whole runs. roofline: the time that the products a record cannot do without would take at
the rate at which this machine multiplies matrices of the model's own shape, measured before and
after each turn. Those products are the weights of the decoder layers that are run, for each
distinct token if all records were planned together, and the SAEs' encoders, for each passage;
attention scores, norms, rotations, metrics and everything else are left out, so no run can reach
it.
"""

import math
import re
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch
from safetensors import safe_open
from torch.nn.functional import linear

from bench.model import BenchModel
from bench.options import Row
from bench.report import report
from bench.runs import (
    Setup,
    compute,
    count_records,
    count_tokens,
    planned,
    run_parser,
    set_up,
    whole_run,
    write_sample,
)
from bench.timing import seconds
from streamer.batching.budget import Budget
from streamer.config import RunConfig
from streamer.records import Batch, Result
from streamer.worker import Worker

CALLS = 60
"""Products in a row whose rate is taken: a second on two cores."""


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = run_parser(__doc__, repeats=5)
    parser.add_argument("--sample", type=int, default=256)
    options = parser.parse_args(arguments)
    setup = set_up(options)
    worker = setup.worker()
    with tempfile.TemporaryDirectory() as folder:
        path = write_sample(setup.records, options.sample, Path(folder))
        config = setup.config(paths=(str(path),), max_tokens=setup.batch_tokens)
        least_batches = planned(worker, config, Budget(setup.batch_tokens))
        batches = _batches_of_a_run(worker, config)  # and warm-up
        count = count_records(batches)
        bare, whole = [], []
        multiplied: dict[torch.dtype, list[float]] = {worker.saes[0].dtype: [], _dtype(worker): []}
        _multiply(setup, worker, multiplied)
        for _ in range(setup.repeats):
            bare.append(count / seconds(lambda: compute(worker, batches), worker.model.device))
            _multiply(setup, worker, multiplied)
            whole.append(whole_run(worker, config).per_second)
            _multiply(setup, worker, multiplied)
    work = {
        "layers": _layer_flops(setup.model, least_batches),
        "encoders": _encoder_flops(worker, least_batches),
    }
    least = work["layers"] / statistics.median(multiplied[_dtype(worker)])
    least += work["encoders"] / statistics.median(multiplied[worker.saes[0].dtype])
    rates = {
        "whole run": statistics.median(whole),
        "bare": statistics.median(bare),
        "roofline": count / least,
    }
    rows: list[Row] = [
        {
            "what": name,
            "samples_per_second": rate,
            "over_bare": rate / rates["bare"],
            "over_roofline": rate / rates["roofline"],
        }
        for name, rate in rates.items()
    ]
    report(
        "efficiency",
        rows,
        **setup.described(),
        records=count,
        turns={"whole run": whole, "bare": bare},
        gflop_per_record={name: flops / count / 1e9 for name, flops in work.items()},
        matrix_gflop_per_second={
            str(dtype): [rate / 1e9 for rate in found] for dtype, found in multiplied.items()
        },
        batch_tokens=setup.batch_tokens,
    )


def _batches_of_a_run(worker: Worker, config: RunConfig) -> list[Batch]:
    """What the worker is fed."""
    batches: list[Batch] = []
    feed = worker.feed

    def keep(batch: Batch) -> list[Result]:
        batches.append(batch)
        return feed(batch)

    with mock.patch.object(worker, "feed", keep):
        whole_run(worker, config)
    return batches


def _layer_flops(model: BenchModel, batches: Sequence[Batch]) -> float:
    """Of the weight matrices of the layers that are run, for each distinct token of `batches`."""
    weights = 0
    for file in model.path.glob("*.safetensors"):
        with safe_open(str(file), "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no mapping
                layer = re.search(r"\.layers\.(\d+)\.", name)
                if layer and int(layer[1]) <= max(model.layers):
                    shape = tensors.get_slice(name).get_shape()
                    weights += math.prod(shape) if len(shape) == 2 else 0
    return 2.0 * weights * count_tokens(batches)


def _encoder_flops(worker: Worker, batches: Sequence[Batch]) -> float:
    """Of every SAE's encoder for each passage, and of the first one's for the noisy passage."""
    passages = sum(len(batch.rows.reads) for batch in batches if batch.rows)
    return 2.0 * passages * sum(sae.W_dec.numel() for sae in (*worker.saes, worker.saes[0]))


def _dtype(worker: Worker) -> torch.dtype:
    """Of the transformer's products."""
    return worker.model.autocast or worker.model.dtype


@torch.inference_mode()
def _multiply(setup: Setup, worker: Worker, found: dict[torch.dtype, list[float]]) -> None:
    """Add to each format the FLOP a second of d_model → d_mlp for a batch of positions, one product
    after another for as long as some layers take."""
    sizes, device = setup.model.settings, worker.model.device
    for dtype, rates in found.items():
        x = torch.randn(setup.batch_tokens, sizes["d_model"], device=device).to(dtype)
        weight = torch.randn(sizes["d_mlp"], sizes["d_model"], device=device).to(dtype)
        linear(x, weight)
        spent = seconds(lambda x=x, w=weight: [linear(x, w) for _ in range(CALLS)], device)
        rates.append(CALLS * 2.0 * x.numel() * sizes["d_mlp"] / spent)


if __name__ == "__main__":
    main()
