"""What does not fit the memory is split until it fits, and nothing that fits is lost."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from streamer.batches import Footprint, PackedTokens, Window
from streamer.computing.fault_isolation import FaultIsolation
from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.device.errors import is_out_of_memory
from streamer.planning.budget import Budget
from streamer.planning.planner import Planner
from streamer.records import Chunk
from streamer.results.run import Run
from support.measured import record
from support.models import make_model, make_saes
from support.processes import run_python
from support.runs import run_with

LIMIT = 24
ERRORS = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 4000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 8 GB, max allowed: 9 GB)"),
    "numpy": MemoryError("Unable to allocate 4.00 GiB for an array with shape (1024, 1048576)"),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> Worker:
    folder = tmp_path_factory.mktemp("llama")
    path, sae = make_model(folder, "llama"), make_saes(folder, (0, 1))
    config = RunConfig(model=str(path), sae=sae, layers=(0, 1), device="cpu", dtype="float64")
    return load_worker(config, "contrast")


@pytest.fixture(scope="module")
def plain(worker, tmp_path_factory) -> Run:
    return run_with(worker, out=tmp_path_factory.mktemp("plain") / "RUN", limit=LIMIT)[0]


@pytest.fixture
def only_fits(worker, monkeypatch) -> Callable[..., list[int]]:
    """Let the model run out of memory beyond so many positions; sizes of what was tried."""

    def limit(positions: int, error: Exception = ERRORS["CUDA"]) -> list[int]:
        tried: list[int] = []
        residuals = worker.model.residuals

        def run(rows: PackedTokens, on_device: Any = None) -> Any:
            tried.append(rows.size)
            if rows.size > positions:
                raise error
            return residuals(rows)

        monkeypatch.setattr(worker.model, "residuals", run)
        return tried

    return limit


def assert_same(run: Run, plain: Run) -> None:
    """Up to rounding in float64, and parquet's to float32."""
    found, expected = run.table("metrics").to_pydict(), plain.table("metrics").to_pydict()
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        wanted = pytest.approx(values, rel=1e-6, abs=1e-6) if is_float(values) else values
        assert found[name] == wanted, name


def is_float(values: list[Any]) -> bool:
    return all(isinstance(value, float) for value in values)


@pytest.mark.parametrize("error", ERRORS)
def test_a_batch_that_does_not_fit_is_split_and_every_row_comes_out(
    tmp_path, worker, plain, only_fits, error
):
    tried = only_fits(100, ERRORS[error])
    run, summary = run_with(worker, out=tmp_path / "RUN", limit=LIMIT, max_tokens=1000)
    assert max(tried) > 100
    splits = summary.counters.session.out_of_memory_splits
    assert splits == sum(positions > 100 for positions in tried) >= 2
    assert run.manifest["counts"]["out_of_memory_splits"] == splits
    assert run.table("rejected").num_rows == 0
    assert_same(run, plain)


def test_memory_that_runs_out_behind_the_model_splits_too(tmp_path, worker, plain, monkeypatch):
    take = worker.tables.take

    def small_only(activations):
        if len(activations.layers[0].residual) > 5:
            raise ERRORS["CPU"]
        return take(activations)

    monkeypatch.setattr(worker.tables, "take", small_only)
    run, summary = run_with(worker, out=tmp_path / "RUN", limit=LIMIT)
    assert summary.counters.session.out_of_memory_splits
    assert_same(run, plain)


def test_once_a_batch_was_split_the_next_ones_are_smaller(worker, only_fits):
    only_fits(200)
    budget = Budget(512, 4096)
    planner = Planner(worker.packing, budget, 1000, 10**9)
    planner.add(Chunk.of([record(row, 3, 5, 7) for row in range(120)]))
    planned, measured = [], []
    for batch in planner.cut():
        result = FaultIsolation(worker).process(batch)
        budget.measured(result.work, 1e-9 * result.counts.tokens_run)
        planned.append(batch.rows.size)
        measured += [one.origin.row for one in result.records]
    assert planned[0] > 200
    assert max(planned[1:]) <= 200
    assert len(planned) > 5
    assert sorted(measured) == list(range(120))


def test_rejections_that_ride_on_a_batch_are_told_once_though_it_is_split(
    tmp_path, worker, only_fits
):
    only_fits(30)
    good = '{{"prompt": "The {0} sky {0} is", "fact": "blue", "hallucination": "green"}}\n'
    lines = [good.format(row) if row % 4 else "{broken\n" for row in range(32)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    run, summary = run_with(worker, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN")
    assert summary.counters.session.out_of_memory_splits
    assert run.table("rejected")["row"].to_pylist() == list(range(0, 32, 4))
    assert run.table("metrics").num_rows == 24


def test_a_record_that_never_fits_is_rejected_with_its_tokens_and_the_others_measured(
    tmp_path, worker, only_fits
):
    def line(words: int) -> str:
        prompt = "the river " * (words // 2)
        return f'{{"prompt": "{prompt}is", "fact": "blue", "hallucination": "green"}}\n'

    (tmp_path / "in.jsonl").write_text("".join(map(line, (4, 6, 8, 150, 10, 12))))
    paths = [str(tmp_path / "in.jsonl")]
    expected, _ = run_with(worker, paths=paths, out=tmp_path / "EXPECTED")
    only_fits(100)
    run, _ = run_with(worker, paths=paths, out=tmp_path / "RUN")
    (rejected,) = run.table("rejected").to_pylist()
    (big,) = (one for one in expected.table("metrics").to_pylist() if one["row"] == 3)
    tokens = sum(big[f"{name}_tokens"] for name in ("prompt", "fact", "hall"))
    assert rejected["row"] == 3
    assert rejected["reason"] == f"out of memory even alone: {tokens:,} tokens"
    assert run.table("metrics")["row"].to_pylist() == [0, 1, 2, 4, 5]
    for name in ("l1_fact_energy", "l0_hall_reconstruction_error", "stability_prompt"):
        wanted = expected.table("metrics")[name].to_pylist()
        del wanted[3]
        assert run.table("metrics")[name].to_pylist() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("beside", [0, 31])
def test_a_record_that_never_fits_takes_nothing_from_the_batches_behind_it(
    worker, only_fits, beside
):
    """It is rejected. That it does not fit says nothing of batches of a quarter of its size."""
    only_fits(150)
    budget = Budget(128)
    records = [record(row, 2, 2, 2) for row in range(beside)] + [record(99, 100, 100, 100)]
    result = FaultIsolation(worker).process(worker.batch(Window(0, len(records)), records))
    assert [rejected.origin.row for rejected in result.rejections] == [99]
    assert len(result.records) == beside
    budget.measured(result.work, 1.0)
    assert budget.holds(1, Footprint(64, 64 * 64, 3))


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_what_allocators_raise_is_known(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError(str(error)))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


REAL = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from streamer.config import RunConfig
from streamer.batches import Window
from streamer.records import Origin, TokenizedRecord
from streamer.computing.fault_isolation import FaultIsolation
from streamer.computing.load import load_worker

worker = load_worker(RunConfig(device="cpu"), "text")
random = np.random.default_rng(0)
records = [
    TokenizedRecord(Origin(row, "in", row, row, row + 1), b"", str(row), (),
                    (random.integers(5, 4000, 4).astype(np.int32),))
    for row in range(6000)
]
window = Window(0, len(records))
batch = worker.batch(window, records)
few = worker.process(worker.batch(window, records[:16]))
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**26
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
all = FaultIsolation(worker).process(batch)
assert not few.counts.out_of_memory_splits and all.counts.out_of_memory_splits, all.work
assert len(all.records) == len(records) and not all.rejections
assert [one.id for one in all.records] == [one.id for one in records]
names = [column.name for column in worker.columns if column.type == "float32"]
many, some = (
    np.stack([one.tables["metrics"][name].to_numpy()[:16] for name in names]) for one in (all, few)
)
close = np.isclose(many, some, rtol=1e-4, atol=1e-4, equal_nan=True)
assert close.mean() > 0.999, close.mean()
print("split", all.counts.out_of_memory_splits)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
def test_memory_that_really_runs_out_splits_the_batch(tmp_path):
    done = run_python("-c", REAL, folder=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("split")
