"""What the benchmarks of the service share: its configuration, planned batches, whole runs."""

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from bench.model import SHAPES, BenchModel, bench_model
from bench.options import add_data_options, contrast_records
from streamer.batches import Batch
from streamer.computing.fault_isolation import FaultIsolation
from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.concurrency.threads import in_own_thread
from streamer.config import RunConfig
from streamer.loading.tokenizing import Tokenizing
from streamer.planning.budget import Budget
from streamer.planning.packing import Packing
from streamer.planning.planner import Planner
from streamer.records import Chunk
from streamer.results.summary import Summary
from streamer.running.prepare import prepare
from streamer.running.run import run as run_prepared

BATCH_TOKENS = {"cpu": 1024, "gpu": 16_384}
"""Positions of a planned batch, by shape."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The model that is run, and how."""

    model: BenchModel
    shape: str
    records: Path
    device: str
    bf16: bool
    repeats: int

    @property
    def batch_tokens(self) -> int:
        """Positions of a planned batch."""
        return BATCH_TOKENS[self.shape]

    def config(self, **changes: Any) -> RunConfig:
        """A run of the benchmark model over the records, but for `changes`."""
        settings = {
            "paths": (str(self.records),),
            "model": str(self.model.path),
            "sae": self.model.sae,
            "layers": self.model.layers,
            "device": self.device,
            "bf16": self.bf16,
            "progress": "none",
        }
        return RunConfig(**settings | changes)

    def worker(self, **changes: Any) -> Worker:
        """The worker of that run, loaded."""
        return in_own_thread(lambda: load_worker(self.config(**changes), "contrast"))

    def described(self) -> dict[str, Any]:
        """For the report."""
        return {
            "model": self.model.settings,
            "device": self.device,
            "bf16": self.bf16,
            "repeats": self.repeats,
        }


def run_parser(description: str | None, repeats: int = 3) -> argparse.ArgumentParser:
    """With the options that all benchmarks of the service have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--shape", choices=SHAPES, default="cpu", help="of the benchmark model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    parser.add_argument("--repeats", type=int, default=repeats)
    return parser


def set_up(options: argparse.Namespace) -> Setup:
    """What the options of `run_parser` say; makes the benchmark model where it is missing."""
    return Setup(
        model=bench_model(options.tokenizer, SHAPES[options.shape]),
        shape=options.shape,
        records=options.records,
        device=options.device,
        bf16=options.bf16,
        repeats=options.repeats,
    )


def write_sample(records: Path, count: int, folder: Path) -> Path:
    """`count` of the records, chosen evenly, as JSON Lines in `folder`.

    Beyond the last, they come again with a number before the prompt: equal ones would be run once.
    """
    known = contrast_records(records)
    if count <= len(known):
        chosen = [known[place * len(known) // count] for place in range(count)]
    else:
        chosen = [
            {
                **known[place % len(known)],
                "prompt": f"{place}. {known[place % len(known)]['prompt']}",
            }
            for place in range(count)
        ]
    path = folder / f"sample-{count}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in chosen), "utf-8")
    return path


def planned(
    worker: Worker, config: RunConfig, budget: Budget, packing: Packing | None = None
) -> list[Batch]:
    """The batches of a whole run, as `packing` packs them; the worker's unless another is given."""
    return batches_of(loaded(worker, config), config, budget, packing or worker.packing)


def planned_sample(setup: Setup, worker: Worker, sample: int) -> list[Batch]:
    """The batches of so many of the records, chosen evenly."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_sample(setup.records, sample, Path(folder))
        config = setup.config(paths=(str(path),))
        return planned(worker, config, Budget(setup.batch_tokens))


def batches_of(
    chunks: Iterable[Chunk], config: RunConfig, budget: Budget, packing: Packing
) -> list[Batch]:
    """The batches of records that are loaded, in windows as large as they can be."""
    planner = Planner(
        packing, budget, config.window_records, config.prefetch_bytes, whole_windows=True
    )
    for chunk in chunks:
        planner.add(chunk)
    return list(planner.cut(at_end=True))


def loaded(worker: Worker, config: RunConfig) -> Iterator[Chunk]:
    """The records of a whole run, tokenized."""
    model = worker.model
    how = Tokenizing(
        model.tokenizer, worker.bos_id, model.context, config.too_long, model.vocabulary
    )
    loader = prepare(config).loader
    while (chunk := loader.next_chunk(how)) is not None:
        yield chunk


def compute(worker: Worker, batches: Sequence[Batch]) -> None:
    """Run the batches, as the pipeline does."""
    computing = FaultIsolation(worker)
    for batch in batches:
        computing.feed(batch)
    computing.drain()


def forward(worker: Worker, batches: Sequence[Batch]) -> None:
    """The transformer alone."""
    for batch in batches:
        assert batch.rows is not None
        worker.model.residuals(batch.rows)


def count_records(batches: Sequence[Batch]) -> int:
    """Of all batches."""
    return sum(len(batch.records) for batch in batches)


def count_tokens(batches: Sequence[Batch]) -> int:
    """That are run: shared ones once, no padding."""
    return sum(batch.rows.count for batch in batches if batch.rows)


def whole_run(worker: Worker, config: RunConfig) -> Summary:
    """A run from reading to Parquet with a worker that is loaded; its output is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(config.model_copy(update={"out": Path(folder) / "RUN"}))
        return anyio.run(run_prepared, prepared, worker)
