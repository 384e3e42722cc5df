"""A model, a memory or a device that fails whatever the record ends the run; no record is lost."""

import pytest
import torch

from streamer.computing.fault_isolation import HOPELESS
from streamer.errors import RunFault
from streamer.results.run import open_run
from support.failing import CUDA_OUT_OF_MEMORY, ERROR, OUT_OF_MEMORY, assert_equal_but
from support.inputs import inputs, rejected
from support.runs import run_with


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


@pytest.mark.usefixtures("feeding")
@pytest.mark.parametrize("attempt", [1, 3])
@pytest.mark.parametrize("error", [OUT_OF_MEMORY, CUDA_OUT_OF_MEMORY], ids=["cpu", "cuda"])
def test_memory_that_runs_out_once_costs_nothing(tmp_path, worker, model, attempt, error):
    settings = inputs(tmp_path, 64)
    plain, _ = run_with(worker, **settings | {"out": tmp_path / "PLAIN"})
    model(lambda _, number: error if number == attempt else None)
    run, summary = run_with(worker, **settings, batch_size=16)
    assert summary.counters.session.out_of_memory_splits == 1
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
