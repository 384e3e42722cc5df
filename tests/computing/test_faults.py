"""A record that the model fails on, or that never fits, costs itself and none of its neighbours."""

import json

import numpy as np
import pytest

from streamer.batches import Result, Window, Work
from streamer.computing.fault_isolation import HOPELESS, FaultIsolation
from streamer.errors import RunFault, UsageError
from streamer.planning.budget import Budget
from streamer.records import Counts, Origin, TokenizedRecord
from support.failing import ERROR, OUT_OF_MEMORY, assert_equal_but, guilty_rows
from support.inputs import LINE, inputs, rejected
from support.runs import run_with


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
    assert run.manifest["counts"]["model_errors"] == summary.counters.session.model_errors == 7
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
    assert summary.counters.session.model_errors


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
    assert results[0].work == Work(Counts(model_errors=1))
    assert computing.finish() == []


def test_a_few_records_that_never_fit_are_rejected_though_nothing_else_is_there(
    tmp_path, worker, model
):
    model(lambda rows, _: OUT_OF_MEMORY if rows.size > 5 else None)
    run, _ = run_with(worker, **inputs(tmp_path, 3))
    reasons = [row["reason"] for row in rejected(tmp_path / "RUN")]
    assert len(reasons) == 3
    assert all(reason.startswith("out of memory even alone: ") for reason in reasons)
    assert run.manifest["status"] == "finished"
