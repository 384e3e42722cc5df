"""`streamer tune` and `streamer verify`: what they print, write, refuse, and notice."""

import tomllib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from rich.console import Console

from streamer.commands import cli
from streamer.commands.agreement import RULES, batches_agree, finding
from streamer.commands.sample import take_sample
from streamer.commands.trials import Trial, measure, recommended
from streamer.computing.worker import Worker
from streamer.config import RunConfig, load_config
from streamer.errors import UsageError
from streamer.tables import Column, RunTables
from support.runs import run_with

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
    for heading in ("batch size", "time", "speed-up", "records/s", "peak memory"):
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


def test_a_size_that_did_not_fit_the_memory_is_not_recommended(loaded, monkeypatch, capsys):
    residuals = loaded.model.residuals

    def small_memory(rows, *on_device):
        if rows.size > 80:
            raise torch.OutOfMemoryError("out of memory")
        return residuals(rows)

    monkeypatch.setattr(loaded.model, "residuals", small_memory)
    trials = measure(take_sample(RunConfig(), 6), "batch_size", [1, 6], repeats=1)
    assert [bool(trial.splits) for trial in trials] == [False, True]
    assert recommended([trials[0], replace(trials[1], per_second=1e9)]).size == 1
    assert command("tune", "--batch-sizes", "1,6", *FEW) == 0
    assert "out of memory" in capsys.readouterr().out
    with pytest.raises(UsageError, match="try smaller sizes"):
        recommended(trials[1:])


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
    def batches_of(measure_them: Callable[[], object]) -> list[tuple[int, ...]]:
        """The shapes of the rows that the model runs meanwhile."""
        ran: list[tuple[int, ...]] = []
        residuals = loaded.model.residuals

        def seen(rows, *on_device):
            ran.append(rows.tokens.shape)
            return residuals(rows, *on_device)

        with monkeypatch.context() as patch:
            patch.setattr(loaded.model, "residuals", seen)
            measure_them()
        return ran

    settings = {"limit": 40, "max_tokens": 256, "window": 16, "deterministic": True}
    in_run = batches_of(lambda: run_with(loaded, out=tmp_path / "RUN", **settings))
    in_verify = batches_of(lambda: batches_agree(RunConfig(**settings), 40, Console(quiet=True)))
    assert len(in_run) > 3
    assert in_verify[-len(in_run) :] == in_run  # before them, each passage alone


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
    assert "all 125 columns agree" in printed
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
