"""`streamer tune` and `streamer verify`: what they print, write, refuse, and notice."""

import tomllib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from streamer.commands import cli
from streamer.commands.agreement import RULES, batches_agree, finding
from streamer.commands.sample import take_sample
from streamer.commands.trials import Trial, measure, recommended
from streamer.computing.worker import Worker
from streamer.config import RunConfig, load_config
from streamer.tables import Column, RunTables

COLUMNS = {
    "count": Column("count", "int32", discrete=True),
    "energy": Column("energy", rests_on=("count",)),
}
FEW = ["--records", "6", "--progress", "none"]


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    return int(exit_.value.code or 0)


@pytest.fixture
def loaded(monkeypatch, embedded_worker: Callable[[str], Worker]) -> Worker:
    """The embedded worker, loaded once, in place of one for every command."""
    worker = embedded_worker("contrast")
    layout = worker.tables.layout

    def load(_config, _kind, tables):
        monkeypatch.setattr(worker, "tables", RunTables(tables, layout))
        return worker

    monkeypatch.setattr("streamer.commands.sample.load_worker", load)
    return worker


def test_tune_measures_every_size_and_writes_the_best_into_a_file(loaded, tmp_path, capsys):
    file = tmp_path / "mine.toml"
    file.write_text("# mine\nlimit = 5  # few\nbatch_size = 3\n")
    assert command("tune", "--batch-sizes", "1,4", "--write", str(file), *FEW) == 0
    printed = capsys.readouterr().out
    for heading in ("batch size", "time", "speed-up", "samples/s", "peak memory"):
        assert heading in printed
    written = tomllib.loads(file.read_text())
    assert written["batch_size"] in (1, 4)
    assert f"Use --batch-size {written['batch_size']}" in printed
    assert "# mine\nlimit = 5  # few" in file.read_text()
    assert load_config(file).batch_size == written["batch_size"]


def test_tune_tries_token_budgets_too(loaded, tmp_path, capsys):
    file = tmp_path / "new.toml"
    assert command("tune", "--token-budgets", "32,64", "--write", str(file), *FEW) == 0
    assert f"Use --max-tokens {load_config(file).max_tokens}" in capsys.readouterr().out


def test_a_trial_runs_all_records_in_batches_of_its_size(loaded, monkeypatch):
    sample = take_sample(RunConfig(), 6)
    ran: list[int] = []
    launch = loaded.launch
    monkeypatch.setattr(loaded, "launch", lambda b: ran.append(len(b.records)) or launch(b))
    trials = measure(sample, "batch_size", [1, 4], repeats=2)
    assert [trial.size for trial in trials] == [1, 4]
    assert ran[1:] == 3 * [*6 * [1], 4, 2]  # a turn for memory, two for time
    for trial in trials:
        assert trial.per_second == pytest.approx(6 / trial.seconds)
        assert trial.peak > 10**8


def test_the_smallest_of_the_fast_ones_is_recommended():
    trials = [Trial(size, 1.0, rate, 0) for size, rate in ((1, 10), (8, 96), (32, 97), (64, 100))]
    assert recommended(trials).size == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "1,x"], "--batch-sizes 1,x: expected numbers"),
        (["--batch-sizes", "0"], "must be at least 1"),
        (["--batch-sizes", "1", "--token-budgets", "8"], "exclude each other"),
        (["--records", "0"], "--records 0: expected at least 1"),
        (["--write", "."], "cannot write into ."),
    ],
)
def test_a_mistake_in_tune_is_told(loaded, arguments, message, capsys):
    assert command("tune", "--progress", "none", *arguments) == 2
    assert message in capsys.readouterr().err


def test_what_has_no_good_record_cannot_be_verified(loaded, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"prompt": 1, "fact": "a", "hallucination": "b"}\n')
    assert command("verify", str(tmp_path / "in.jsonl"), *FEW) == 2
    assert "no record can be measured" in capsys.readouterr().err


def test_verify_agrees_and_says_how_far_every_column_is(loaded, capsys):
    assert command("verify", *FEW) == 0
    printed = capsys.readouterr().out
    assert "all 117 columns agree" in printed
    for column in loaded.columns:
        assert column.name[:20] in printed


def test_verify_in_double_precision_agrees_to_a_billionth(capsys):
    assert command("verify", "--dtype", "float64", *FEW) == 0
    assert RULES[torch.float64].relative == RULES[torch.float64].axis == 1e-9


def test_verify_notices_a_branch_that_sees_the_other(loaded, monkeypatch, capsys):
    pack = type(loaded.packing).pack

    def without_ends(self, records):
        rows = pack(self, records)
        return replace(rows, ends=np.full_like(rows.ends, rows.ends.shape[1]))

    monkeypatch.setattr(type(loaded.packing), "pack", without_ends)
    assert command("verify", *FEW) == 1
    assert "columns differ" in capsys.readouterr().out


def test_verify_notices_a_small_error_in_one_column(loaded, monkeypatch):
    process = loaded.process

    def slightly_off(batch):
        result = process(batch)
        (rows,) = result.tables.values()
        index = rows.column_names.index("l3_fact_gini")
        off = pa.array([1e-4, *[0.0] * (len(rows) - 1)])
        rows = rows.set_column(index, "l3_fact_gini", pc.add(rows[index], off))
        return replace(result, tables={"metrics": rows})

    from rich.console import Console

    assert batches_agree(RunConfig(), 6, Console(quiet=True))
    monkeypatch.setattr(loaded, "process", slightly_off)
    assert not batches_agree(RunConfig(), 6, Console(quiet=True))


def test_what_rests_on_a_feature_that_flipped_is_counted_not_compared():
    alone = {"count": np.array([3.0, 4, 5]), "energy": np.array([1.0, 2.0, 3.0])}
    batched = {"count": np.array([3.0, 5, 5]), "energy": np.array([1.0 + 1e-7, 2.5, 3.0])}
    energy = finding("energy", COLUMNS, alone, batched, RULES[torch.float32])
    assert energy.undecided == 1
    assert energy.relative == pytest.approx(1e-7, rel=1e-3)
    assert energy.holds(RULES[torch.float32])  # one of three is rounded up to one
    assert not energy.holds(RULES[torch.float64])
    assert finding("count", COLUMNS, alone, batched, RULES[torch.float32]).undecided == 1


def test_a_null_beside_a_number_is_a_difference():
    alone = {"count": np.zeros(1), "energy": np.array([np.nan])}
    batched = {"count": np.zeros(1), "energy": np.array([1.0])}
    energy = finding("energy", COLUMNS, alone, batched, RULES[torch.float64])
    assert not energy.holds(RULES[torch.float64])


def test_every_column_knows_the_counts_that_it_rests_on(loaded):
    behind = {column.name: set(column.rests_on) for column in loaded.columns}
    assert set().union(*behind.values()) <= behind.keys()
    assert all(behind.values())
    assert behind["l3_hall_eigenvalue_entropy"] == {"l3_hall_l0_norm"}
    assert behind["entropy_fact"] == {"l1_fact_l0_norm"}
    assert behind["centroid_drift_hall"] == {"l1_hall_l0_norm", "l1_prompt_l0_norm"}
    assert behind["cross_layer_consistency_diff"] == {
        f"l{layer}_{passage}_l0_norm" for layer in (3, 5) for passage in ("fact", "hall")
    }


def test_a_difference_is_as_exact_as_its_parts(loaded):
    columns = {column.name: column for column in loaded.columns}
    names = ("axis_twist_fact", "axis_twist_hall", "axis_twist_diff")
    counts = {count: np.ones(1) for count in columns["axis_twist_diff"].rests_on}
    alone = counts | dict(zip(names, np.array([[80.0], [80.5], [0.5]]), strict=True))
    batched = alone | {"axis_twist_diff": np.array([0.508])}
    found = finding("axis_twist_diff", columns, alone, batched, RULES[torch.float32])
    assert found.relative == pytest.approx(0.008 / 80.5)
    assert found.allowed == RULES[torch.float32].axis
