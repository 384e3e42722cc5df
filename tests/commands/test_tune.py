"""`streamer tune`: what it prints, writes and refuses."""

import tomllib
from dataclasses import replace

import pytest
import torch

from streamer.commands.sample import take_sample
from streamer.commands.trials import Trial, measure, recommended
from streamer.config import RunConfig, load_config
from streamer.errors import UsageError
from support.commands import FEW, command


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


def test_what_a_run_would_tell_of_the_model_is_told(loaded, monkeypatch, capsys):
    monkeypatch.setattr(loaded.model, "notes", ["read [this]"])
    assert command("tune", "--batch-sizes", "2", *FEW) == 0
    assert "note: read [this]\n" in capsys.readouterr().out
