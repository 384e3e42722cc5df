"""What the model fails on costs that record; a model, memory or device that fails costs none."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from streamer.batches import PackedTokens, Result, Window, Work
from streamer.computing.fault_isolation import HOPELESS, FaultIsolation
from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.device.traits import TRAITS
from streamer.errors import RunFault, UsageError
from streamer.planning.budget import Budget
from streamer.records import Origin, TokenizedRecord
from streamer.results.run import Run, open_run
from support.inputs import LINE, inputs, rejected
from support.runs import run_with

CUDA_OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
try:
    torch.empty(2**62, dtype=torch.uint8)
except RuntimeError as error:
    OUT_OF_MEMORY = error  # as the allocator of the CPU raises it
ERROR = ValueError("cannot look at this\nsecond line")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_worker(RunConfig(dtype="float64", device="cpu"), "contrast")
    torch.set_num_threads(threads)


def guilty_rows(rows: PackedTokens, worker: Worker) -> bool:
    (token,) = worker.model.tokenizer(" river", add_special_tokens=False)["input_ids"]
    return bool((rows.tokens == token).any())


@pytest.fixture
def model(worker, monkeypatch) -> Callable[..., list[int]]:
    """Put `fails`, which is told the rows of a pass and its number, before the model; it may return
    an error to raise. Returns the sizes of the passes."""

    def put(fails: Callable[[PackedTokens, int], BaseException | None]) -> list[int]:
        passes: list[int] = []
        residuals = worker.model.residuals

        def run(rows: PackedTokens, on_device: Any = None) -> Any:
            passes.append(rows.size)
            error = fails(rows, len(passes))
            if error is not None:
                raise error
            return residuals(rows)

        monkeypatch.setattr(worker.model, "residuals", run)
        return passes

    return put


@pytest.fixture(params=["at once", "step by step"])
def feeding(request, monkeypatch) -> None:
    """As batches are fed on a CPU, and as on CUDA."""

    if request.param == "step by step":
        monkeypatch.setitem(TRAITS, "cpu", dataclasses.replace(TRAITS["cpu"], runs_ahead=True))


def assert_equal_but(run: Run, plain: Run, without: tuple[int, ...] = ()) -> None:
    """The rows of `plain`, up to rounding, `without` some."""
    found = run.table("metrics").to_pylist()
    wanted = [row for row in plain.table("metrics").to_pylist() if row["row"] not in without]
    assert [row["row"] for row in found] == [row["row"] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        for name, value in other.items():
            wanted_value = pytest.approx(value, 1e-5, 1e-5) if isinstance(value, float) else value
            assert one[name] == wanted_value, name


# a record that the model fails on


@pytest.mark.usefixtures("feeding")
def test_a_record_that_makes_the_model_raise_costs_itself_and_not_its_batch(
    tmp_path, worker, model
):
    settings = inputs(tmp_path, 64, guilty=(31,))
    plain, _ = run_with(worker, **settings | {"out": tmp_path / "PLAIN"})
    passes = model(lambda rows, _: ERROR if guilty_rows(rows, worker) else None)
    run, summary = run_with(worker, **settings, batch_size=64, window=64, max_tokens=4096)
    (one,) = rejected(tmp_path / "RUN")
    assert one["row"] == 31
    assert one["reason"] == "the model raised ValueError: cannot look at this"
    assert one["raw"] == LINE.format("river", 31).encode().strip()
    assert run.table("metrics").num_rows == 63
    assert_equal_but(run, plain, without=(31,))
    assert run.manifest["status"] == "finished"
    assert run.manifest["counts"]["model_errors"] == summary.counters.faults == 7
    assert len(passes) == 1 + 2 * 6 + 1  # the batch, six times its halves, and a proof
    lines = map(json.loads, (tmp_path / "RUN" / "log.jsonl").read_text().splitlines())
    (split,) = (line for line in lines if line["event"] == "split")
    assert (split["records"], split["cause"]) == (64, one["reason"])


@pytest.mark.usefixtures("feeding")
@pytest.mark.parametrize("batch_size", [1, 16])
def test_however_many_records_are_to_blame_each_is_rejected_and_the_others_measured(
    tmp_path, worker, model, batch_size
):
    guilty = (0, 1, *range(20, 40), 63)
    model(lambda rows, _: ERROR if guilty_rows(rows, worker) else None)
    run, _ = run_with(worker, **inputs(tmp_path, 64, guilty), batch_size=batch_size)
    assert tuple(row["row"] for row in rejected(tmp_path / "RUN")) == guilty
    assert run.table("metrics").num_rows == 64 - len(guilty)


@pytest.mark.usefixtures("feeding")
@pytest.mark.parametrize("batch_size", [4, 64])
def test_many_records_to_blame_at_the_beginning_are_rejected_if_one_behind_them_can_be_measured(
    tmp_path, worker, model, batch_size
):
    guilty = tuple(range(HOPELESS + 8))
    model(lambda rows, _: ERROR if guilty_rows(rows, worker) else None)
    run, _ = run_with(worker, **inputs(tmp_path, 64, guilty), batch_size=batch_size)
    assert tuple(row["row"] for row in rejected(tmp_path / "RUN")) == guilty
    assert run.table("metrics").num_rows == 64 - len(guilty)


def test_what_raises_behind_the_model_is_split_as_well(tmp_path, worker, monkeypatch):
    take, key = worker.tables.take, 3

    def fails_on(activations):
        if len(activations.layers[0].residual) > key:
            raise IndexError
        return take(activations)

    monkeypatch.setattr(worker.tables, "take", fails_on)
    run, summary = run_with(worker, **inputs(tmp_path, 16), batch_size=16)
    assert run.table("metrics").num_rows == 16
    assert summary.counters.faults


def test_an_error_of_the_model_does_not_lower_the_budget(worker, model):
    model(lambda rows, _: ERROR if guilty_rows(rows, worker) else None)
    ids = worker.model.tokenizer(["The sky", "A river"], add_special_tokens=False)["input_ids"]
    records = [
        TokenizedRecord(Origin(n, "", n, 0, 0), b"", "", (), (np.array(one, np.int32),) * 3)
        for n, one in enumerate(ids)
    ]
    budget = Budget(16, 4096)
    result = FaultIsolation(worker).process(worker.batch(Window(0, 2), records))
    assert [len(result.records), len(result.rejections)] == [1, 1]
    for _ in range(10):
        budget.measured(result.work, 1.0)
    assert (budget.tokens, budget.most) == (16, 4096)


# a model, a memory or a device that fails whatever the record


@pytest.mark.usefixtures("feeding")
@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_model_that_fails_on_everything_breaks_the_run_off_and_rejects_nothing(
    tmp_path, worker, model, batch_size
):
    model(lambda *_: ERROR)
    found = r"ValueError: cannot look at this \(at record \d+ of .*plain tokens failed as well"
    with pytest.raises(RunFault, match=found) as raised:
        run_with(worker, **inputs(tmp_path, 64), batch_size=batch_size, part_rows=1)
    assert "\n" not in str(raised.value)
    assert rejected(tmp_path / "RUN") == []
    assert open_run(tmp_path / "RUN").manifest["status"] == "failed"


@pytest.mark.usefixtures("feeding")
@pytest.mark.parametrize("error", [ERROR, OUT_OF_MEMORY], ids=["error", "memory"])
def test_a_model_that_breaks_in_the_middle_breaks_the_run_off_and_rejects_nothing(
    tmp_path, worker, model, error
):
    model(lambda _, number: error if number > 5 else None)
    with pytest.raises(RunFault, match="record that was measured before failed as well"):
        run_with(worker, **inputs(tmp_path, 64), batch_size=8, window=8, part_rows=1)
    assert rejected(tmp_path / "RUN") == []
    rows = open_run(tmp_path / "RUN").table("metrics")["row"].to_pylist()
    assert rows == list(range(len(rows)))
    assert 8 <= len(rows) <= 40


@pytest.mark.usefixtures("feeding")
@pytest.mark.parametrize("error", [ERROR, OUT_OF_MEMORY], ids=["error", "memory"])
def test_when_none_of_the_first_records_can_be_measured_the_run_breaks_off(
    tmp_path, worker, model, error
):
    """Though a few tokens can; what failed in batches before is not written either."""
    model(lambda rows, _: error if rows.size > 5 else None)
    with pytest.raises(RunFault, match=f"none of the first {HOPELESS} records"):
        run_with(worker, **inputs(tmp_path, 64), batch_size=4, window=4, part_rows=1)
    assert rejected(tmp_path / "RUN") == []


def test_when_no_record_of_all_can_be_measured_the_run_breaks_off(tmp_path, worker, model):
    model(lambda rows, _: ERROR if rows.size > 5 else None)
    with pytest.raises(RunFault, match=f"none of the first {HOPELESS + 1} records"):
        run_with(worker, **inputs(tmp_path, HOPELESS + 1), part_rows=1)
    assert rejected(tmp_path / "RUN") == []


def test_a_model_of_which_nothing_is_finite_breaks_the_run_off(tmp_path, worker, monkeypatch):
    for name in ("residuals", "residuals_apart"):
        whole = getattr(worker.model, name)
        spoilt = lambda rows, *_, whole=whole: whole(rows) * torch.nan  # noqa: E731
        monkeypatch.setattr(worker.model, name, spoilt)
    with pytest.raises(RunFault, match="residual is not finite"):
        run_with(worker, **inputs(tmp_path, 16))
    assert rejected(tmp_path / "RUN") == []


DEVICE_ERRORS = {
    "assert": RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublas`"),
    "driver": torch.AcceleratorError("CUDA error: unspecified launch failure"),
}


@pytest.mark.usefixtures("feeding")
@pytest.mark.parametrize("error", DEVICE_ERRORS.values(), ids=DEVICE_ERRORS)
def test_a_device_that_fails_breaks_the_run_off_at_once(tmp_path, worker, model, error):
    passes = model(lambda _, number: error if number > 2 else None)
    with pytest.raises(RunFault, match=r"the device failed: \w+: CUDA error.*Resume the run"):
        run_with(worker, **inputs(tmp_path, 64), batch_size=8, window=8)
    assert len(passes) == 3  # it is not asked again
    assert rejected(tmp_path / "RUN") == []


@pytest.mark.parametrize("error", [UsageError("ours"), RunFault("ours"), KeyboardInterrupt("now")])
def test_what_is_said_to_the_user_is_no_error_of_a_record(worker, model, error):
    passes = model(lambda *_: error)
    records = [worker.plain_record()] * 2
    with pytest.raises(type(error), match=str(error)):
        FaultIsolation(worker).process(worker.batch(Window(0, 2), records))
    assert len(passes) == 1


def test_what_the_model_rejects_is_kept_back_until_something_was_measured(worker, model):
    model(lambda rows, _: ERROR if guilty_rows(rows, worker) else None)
    ids = worker.model.tokenizer(["A river", "The sky"], add_special_tokens=False)["input_ids"]
    batches = [
        worker.batch(
            Window(n, 1),
            [TokenizedRecord(Origin(n, "", n, 0, 0), b"", "", (), (np.array(one, np.int32),) * 3)],
        )
        for n, one in enumerate(ids)
    ]
    computing = FaultIsolation(worker)
    assert computing.feed(batches[0]) == []
    results: list[Result] = computing.feed(batches[1])
    assert [result.window.index for result in results] == [0, 1]
    assert results[0].work == Work(faults=1)
    assert computing.finish() == []


# out of memory


@pytest.mark.usefixtures("feeding")
@pytest.mark.parametrize("attempt", [1, 3])
@pytest.mark.parametrize("error", [OUT_OF_MEMORY, CUDA_OUT_OF_MEMORY], ids=["cpu", "cuda"])
def test_memory_that_runs_out_once_costs_nothing(tmp_path, worker, model, attempt, error):
    settings = inputs(tmp_path, 64)
    plain, _ = run_with(worker, **settings | {"out": tmp_path / "PLAIN"})
    model(lambda _, number: error if number == attempt else None)
    run, summary = run_with(worker, **settings, batch_size=16)
    assert summary.counters.splits == 1
    assert rejected(tmp_path / "RUN") == []
    assert_equal_but(run, plain)


@pytest.mark.usefixtures("feeding")
def test_memory_that_always_runs_out_breaks_the_run_off_and_rejects_nothing(
    tmp_path, worker, model
):
    passes = model(lambda *_: OUT_OF_MEMORY)
    with pytest.raises(RunFault, match=r"out of memory \(at record .*failed as well.*--device"):
        run_with(worker, **inputs(tmp_path, 64), batch_size=16)
    assert len(passes) < 10
    assert rejected(tmp_path / "RUN") == []
    run = open_run(tmp_path / "RUN")
    assert run.manifest["status"] == "failed"
    assert run.parts("metrics") == []


def test_a_few_records_that_never_fit_are_rejected_though_nothing_else_is_there(
    tmp_path, worker, model
):
    model(lambda rows, _: OUT_OF_MEMORY if rows.size > 5 else None)
    run, _ = run_with(worker, **inputs(tmp_path, 3))
    reasons = [row["reason"] for row in rejected(tmp_path / "RUN")]
    assert len(reasons) == 3
    assert all(reason.startswith("out of memory even alone: ") for reason in reasons)
    assert run.manifest["status"] == "finished"
