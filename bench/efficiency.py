"""How much of the machine a run uses: against the bare computation, and against matrix products.

    python -m bench.efficiency [--sample 256]

bare: the same batches as those of the run before it, without reading, planning and writing; it
takes turns with whole runs. roofline: the rate if the products a record cannot do without took no
longer than this machine takes for matrices of the model's own shape, measured before and after each
turn. Those products are the weights of the decoder layers that are run, for each distinct token if
all records were planned together, and the SAEs' encoders, for each passage; attention scores,
norms, rotations, metrics and everything else are left out, so no run can reach it. The machine's
own rate may change within a turn: what is compared is what a run has of the roofline next to it.
"""

import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
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
from streamer.batches import Batch
from streamer.computing.worker import InFlight, Worker
from streamer.concurrency.threads import in_own_thread
from streamer.config import RunConfig
from streamer.planning.budget import Budget
from streamer.running.load import gc_frozen

CALLS = 60
"""Products in a row whose rate is taken: a second on two cores."""
RATE, ROOFLINE = "samples_per_second", "roofline"


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = run_parser(__doc__, repeats=6)
    parser.add_argument("--sample", type=int, default=256)
    options = parser.parse_args(arguments)
    setup = set_up(options)
    worker = setup.worker()
    with tempfile.TemporaryDirectory() as folder:
        path = write_sample(setup.records, options.sample, Path(folder))
        config = setup.config(paths=(str(path),), max_tokens=setup.batch_tokens)
        least_batches = planned(worker, config, Budget(setup.batch_tokens))
        _, batches = _run(worker, config)  # and warm-up
        count = count_records(batches)
        flops = _flops(setup.model, worker, least_batches, count)

        def whole() -> float:
            nonlocal batches
            rate, batches = _run(worker, config)
            return rate

        def bare() -> float:
            return count / seconds(lambda: compute(worker, batches), worker.model.device)

        ways = {"bare": lambda: in_own_thread(bare), "whole run": whole}
        turns: list[dict[str, dict[str, float]]] = []
        with gc_frozen():  # as within a run
            for turn in range(setup.repeats):
                order = reversed(ways) if turn % 2 else ways  # a drift favours neither
                turns.append(
                    {way: _beside_the_roofline(setup, worker, flops, ways[way]) for way in order}
                )
    reached = [{way: turn[way][RATE] / turn[way][ROOFLINE] for way in ways} for turn in turns]
    rows: list[Row] = [
        {
            "what": way,
            RATE: median(turn[way][RATE] for turn in turns),
            "over_bare": median(turn[way] / turn["bare"] for turn in reached),
            "over_roofline": median(turn[way] for turn in reached),
        }
        for way in ways
    ]
    report(
        "efficiency",
        rows,
        **setup.described(),
        records=count,
        turns=turns,
        gflop_per_record={str(dtype): each / 1e9 for dtype, each in flops.items()},
        batch_tokens=setup.batch_tokens,
    )


def _beside_the_roofline(
    setup: Setup, worker: Worker, flops: Mapping[torch.dtype, float], rate: Callable[[], float]
) -> dict[str, float]:
    """`rate`, and the roofline of the moment, in records a second."""

    def roofline() -> float:
        return in_own_thread(lambda: _roofline(setup, worker, flops))

    before = roofline()
    found = rate()
    return {RATE: found, ROOFLINE: (before + roofline()) / 2}


def _run(worker: Worker, config: RunConfig) -> tuple[float, list[Batch]]:
    """The rate of a whole run, and the batches that the worker was given."""
    batches: list[Batch] = []
    launch = worker.launch

    def keep(batch: Batch) -> InFlight:
        batches.append(batch)
        return launch(batch)

    with mock.patch.object(worker, "launch", keep):
        return whole_run(worker, config).per_second, batches


def _flops(
    model: BenchModel, worker: Worker, batches: Sequence[Batch], records: int
) -> dict[torch.dtype, float]:
    """FLOPs that a record needs at least, by number format."""
    transformer, encoders = worker.model.autocast or worker.model.dtype, worker.saes[0].dtype
    found = {transformer: _layer_flops(model, batches) / records}
    found[encoders] = found.get(encoders, 0.0) + _encoder_flops(worker, batches) / records
    return found


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
    passages = sum(len(batch.rows.read_at) for batch in batches if batch.rows)
    return 2.0 * passages * sum(sae.W_dec.numel() for sae in (*worker.saes, worker.saes[0]))


@torch.inference_mode()
def _roofline(setup: Setup, worker: Worker, flops: Mapping[torch.dtype, float]) -> float:
    """Records a second at the present rate of d_model → d_mlp for a batch of positions, one product
    after another for as long as some layers take."""
    sizes, device = setup.model.settings, worker.model.device
    needed = 0.0
    for dtype, each in flops.items():
        x = torch.randn(setup.batch_tokens, sizes["d_model"], device=device).to(dtype)
        weight = torch.randn(sizes["d_mlp"], sizes["d_model"], device=device).to(dtype)
        linear(x, weight)
        spent = seconds(lambda x=x, w=weight: [linear(x, w) for _ in range(CALLS)], device)
        needed += each * spent / (CALLS * 2.0 * x.numel() * sizes["d_mlp"])
    return 1 / needed


if __name__ == "__main__":
    main()
