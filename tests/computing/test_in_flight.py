"""What batches in flight beside a failing one hold costs no record: it is tried again alone."""

import dataclasses

import pytest
import torch

from streamer.device.traits import TRAITS
from support.failing import OUT_OF_MEMORY, guilty_rows
from support.inputs import inputs, rejected
from support.runs import run_with


@pytest.fixture
def room_for_two(worker, monkeypatch):
    """A device that runs ahead, and whose memory holds two batches."""
    monkeypatch.setitem(TRAITS, "cpu", dataclasses.replace(TRAITS["cpu"], runs_ahead=True))
    launch, advance, held = worker.launch, worker.advance, set()

    def launch_if_it_fits(batch):
        if len(held) == 2:
            raise OUT_OF_MEMORY
        in_flight = launch(batch)
        held.add(id(in_flight))
        return in_flight

    def release_at_the_end(in_flight):
        result = advance(in_flight)
        if result is not None:
            held.remove(id(in_flight))
        return result

    monkeypatch.setattr(worker, "launch", launch_if_it_fits)
    monkeypatch.setattr(worker, "advance", release_at_the_end)


@pytest.mark.usefixtures("room_for_two")
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_record_that_fits_alone_is_measured(tmp_path, worker, batch_size):
    run, _ = run_with(worker, **inputs(tmp_path, 9), batch_size=batch_size)
    assert run.table("metrics")["row"].to_pylist() == list(range(9))
    assert rejected(tmp_path / "RUN") == []


@pytest.mark.usefixtures("room_for_two")
def test_a_record_that_is_not_finite_does_not_end_the_run(tmp_path, worker, monkeypatch):
    """Before it is blamed, another one is run, which needs memory as well."""
    whole, apart = worker.model.residuals, worker.model.residuals_apart
    (river,) = worker.model.tokenizer(" river", add_special_tokens=False)["input_ids"]

    def spoilt(rows, *on_device):
        return whole(rows, *on_device) * (torch.nan if guilty_rows(rows, worker) else 1)

    def spoilt_apart(passages):
        return apart(passages) * (torch.nan if any(river in ids for ids in passages) else 1)

    monkeypatch.setattr(worker.model, "residuals", spoilt)
    monkeypatch.setattr(worker.model, "residuals_apart", spoilt_apart)
    run, _ = run_with(worker, **inputs(tmp_path, 9, guilty=(2, 4)), batch_size=1)
    assert [row["row"] for row in rejected(tmp_path / "RUN")] == [2, 4]
    assert run.table("metrics").num_rows == 7
