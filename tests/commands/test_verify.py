"""`streamer verify`: what it compares, notices, prints and refuses."""

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from streamer import embedded
from streamer.commands import sample
from streamer.commands.agreement import RULES
from streamer.commands.verdict import batches_agree
from streamer.computing.worker import InFlight, Worker
from streamer.config import RunConfig
from streamer.device.traits import TRAITS
from support.commands import FEW, command
from support.failing import ERROR, guilty_rows
from support.inputs import inputs
from support.runs import run_with

QUIET = Console(quiet=True)


def change_in_batches(
    monkeypatch, worker: Worker, names: list[str], change: Callable[[pa.Array], pa.Array]
) -> None:
    """Let `worker` give other values of these columns, of whatever table, where records are run
    together."""
    collect = worker.collect

    def changed(rows: pa.Table) -> pa.Table:
        for name in set(names) & set(rows.column_names):
            index = rows.column_names.index(name)
            rows = rows.set_column(index, name, change(rows[name].combine_chunks()))
        return rows

    def collected(in_flight: InFlight):
        result = collect(in_flight)
        if len(result.records) == 1:
            return result
        return replace(result, tables={name: changed(t) for name, t in result.tables.items()})

    monkeypatch.setattr(worker, "collect", collected)


def batches_of(
    monkeypatch, worker: Worker, measure: Callable[[], object]
) -> list[tuple[int, int, int, int]]:
    """What `worker` is given meanwhile: which window, how many rows that has, and how many records
    and positions the batch has."""
    given: list[tuple[int, int, int, int]] = []
    launch = worker.launch

    def seen(batch):
        size = 0 if batch.rows is None else batch.rows.size
        given.append((batch.window.index, batch.window.rows, len(batch.records), size))
        return launch(batch)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "launch", seen)
        measure()
    return given


def some_bad(folder: Path) -> str:
    """A file of 46 records, 40 of which are good."""
    lines = [
        json.dumps(record)
        for file in sorted(embedded.RECORDS.glob("*.json"))
        for record in json.loads(file.read_text())[:20]
    ][:40]
    for at in (3, 5, 8, 21, 22, 40):
        lines.insert(at, "not JSON")
    file = folder / "in.jsonl"
    file.write_text("".join(f"{line}\n" for line in lines))
    return str(file)


def test_neither_tune_nor_verify_needs_a_directory_that_can_be_written(
    loaded, tmp_path, monkeypatch, capsys
):
    (tmp_path / "runs").write_text("no directory: a run could not be made here")
    monkeypatch.chdir(tmp_path)
    assert command("run", *FEW[2:]) == 2
    assert command("verify", *FEW) == 0
    assert command("tune", "--batch-sizes", "2", *FEW) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs"]


def test_verify_tests_the_batches_that_a_run_would_run(loaded, tmp_path, monkeypatch):
    settings = {"paths": [some_bad(tmp_path)], "max_tokens": 128, "window": 16}
    settings["deterministic"] = True

    def run() -> None:
        run_with(loaded, out=tmp_path / "RUN", **settings)

    in_run = batches_of(monkeypatch, loaded, run)
    in_verify = batches_of(
        monkeypatch, loaded, lambda: batches_agree(RunConfig(**settings), 40, QUIET)
    )
    assert len(in_run) > 3
    assert in_verify == in_run


def test_verify_cuts_the_first_window_when_a_batch_is_full_as_a_run_does(
    loaded, tmp_path, monkeypatch
):
    settings = {"max_tokens": 256, "limit": 80}

    def first_window(measure: Callable[[], object]) -> int:
        return batches_of(monkeypatch, loaded, measure)[0][1]

    in_run = first_window(lambda: run_with(loaded, out=tmp_path / "RUN", **settings))
    in_verify = first_window(lambda: batches_agree(RunConfig(**settings), 80, QUIET))
    assert in_verify == in_run == 64


def test_verify_has_batches_in_flight_where_a_run_has(loaded, monkeypatch):
    monkeypatch.setitem(TRAITS, "cpu", replace(TRAITS["cpu"], runs_ahead=True))
    steps: list[str] = []
    for step in ("launch", "collect"):
        take = getattr(loaded, step)

        def seen(given, step=step, take=take):
            steps.append(step)
            return take(given)

        monkeypatch.setattr(loaded, step, seen)
    assert batches_agree(RunConfig(max_tokens=128, limit=12), 12, QUIET)
    assert steps[:2] == ["launch", "launch"]


def test_what_has_no_good_record_cannot_be_verified(loaded, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"prompt": 1, "fact": "a", "hallucination": "b"}\n')
    assert command("verify", str(tmp_path / "in.jsonl"), *FEW) == 2
    assert "no record can be measured" in capsys.readouterr().err


def test_verify_agrees_and_prints_residuals_the_worst_ten_and_a_line_for_the_rest(loaded, capsys):
    assert command("verify", *FEW) == 0
    printed = capsys.readouterr().out
    assert "6 records, native forward, sharing trie: residuals agree to " in printed
    assert "of their norm, and all 125 columns agree" in printed
    for layer in (1, 3, 5):
        assert f"residual at layer {layer}" in printed
    table = [line for line in printed.splitlines() if line.startswith("│")]
    assert len([line for line in table if not line.startswith("│ residual")]) == 10
    assert "and 115 more columns, at most " in printed
    assert "float32" not in printed  # nothing shorter was asked for


def test_no_run_has_the_residuals_that_verify_compares(loaded, tmp_path):
    run, _ = run_with(None, out=tmp_path / "RUN", limit=2)
    assert not [name for name in run.table("metrics").column_names if "residual at" in name]
    assert {path.name for path in run.path.iterdir() if path.is_dir()} == {"metrics", "rejected"}


def test_verify_in_double_precision_agrees_to_a_billionth(loaded, capsys):
    assert command("verify", "--dtype", "float64", *FEW) == 0
    (rules,) = (rules for dtype, rules in RULES.items() if dtype.itemsize == 8)
    allowed = {column.tolerance.at(rules.precision) for column in loaded.columns}
    assert {rules.residual, *allowed} == {1e-9}


def test_verify_notices_a_branch_that_sees_the_other(loaded, monkeypatch, capsys):
    pack = type(loaded.packing).pack

    def without_ends(self, records):
        rows = pack(self, records)
        return replace(rows, ends=np.full_like(rows.ends, rows.ends.shape[1]))

    monkeypatch.setattr(type(loaded.packing), "pack", without_ends)
    assert command("verify", *FEW) == 1
    printed = capsys.readouterr().out
    assert "no agreement" in printed
    assert "3 of 3 residuals differ by more than rounding" in printed
    assert "Try --sharing prefix" in printed


def test_verify_notices_a_small_error_in_one_column(loaded, monkeypatch, capsys):
    def off(values):
        return pc.add(values, pa.array([1e-4, *[0.0] * (len(values) - 1)]))

    assert batches_agree(RunConfig(), 6, QUIET)
    change_in_batches(monkeypatch, loaded, ["l3_fact_gini"], off)
    assert command("verify", *FEW) == 1
    assert "1 of 125 columns differ by more than rounding: l3_fact_gini" in capsys.readouterr().out


def test_verify_notices_a_residual_that_is_off_where_every_column_agrees(
    loaded, monkeypatch, capsys
):
    def off(residuals):
        return pa.ListArray.from_arrays(
            residuals.offsets, pc.multiply(residuals.flatten(), 1 + 2e-5)
        )

    change_in_batches(monkeypatch, loaded, ["residual at layer 3"], off)
    assert command("verify", *FEW) == 1
    printed = capsys.readouterr().out
    assert "1 of 3 residuals differ by more than rounding: the residual at layer 3 by" in printed
    assert "agree," not in printed
    assert "columns differ" not in printed


def test_verify_says_no_agreement_where_everything_is_undecided(loaded, monkeypatch, capsys):
    counts = [column.name for column in loaded.columns if column.name.endswith("l0_norm")]
    change_in_batches(monkeypatch, loaded, counts, lambda values: pc.add(values, 1))
    assert command("verify", *FEW) == 1
    printed = capsys.readouterr().out
    assert "112 of 125 columns are undecided: " in printed  # all but classes and ranks
    assert "in 6 of 6 records, where 1 are allowed" in printed
    assert "nothing shows that these columns agree" in printed
    assert "Measured with --dtype float64, fewer may be" in printed
    assert "columns agree\n" not in printed


def test_what_a_run_would_tell_of_the_model_and_the_records_is_told(
    loaded, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loaded.model, "notes", ["read [this]"])
    file = tmp_path / "in.jsonl"
    file.write_text('{"prompt": "The sky is ", "fact": "blue", "hallucination": "green"}\n')
    assert command("verify", str(file), *FEW) == 0
    printed = capsys.readouterr().out
    assert "note: read [this]\n" in printed
    assert "note: the prompt of record 0 of " in printed
    assert loaded.model.notes == ["read [this]"]


def test_a_record_that_the_model_fails_on_is_told_as_rejected(
    loaded, tmp_path, monkeypatch, capsys
):
    residuals = loaded.model.residuals

    def fails(rows, *on_device):
        if guilty_rows(rows, loaded):
            raise ERROR
        return residuals(rows, *on_device)

    monkeypatch.setattr(loaded.model, "residuals", fails)
    (path,) = inputs(tmp_path, 6, guilty=(2,))["paths"]
    assert command("verify", path, *FEW) == 0
    assert "5 of 6 records, the others rejected, native forward" in capsys.readouterr().out


def test_verify_holds_one_model_at_a_time(monkeypatch, capsys):
    load, loads = sample.load_worker, []

    def loading(config, *arguments):
        assert not [one for one, _ in loads if one() is not None], "the one before is still there"
        worker = load(config, *arguments)
        loads.append((weakref.ref(worker), config.bf16))
        return worker

    monkeypatch.setattr(sample, "load_worker", loading)
    assert command("verify", "--bf16", *FEW) == 0
    assert [short for _, short in loads] == [True, False]
