"""`streamer check` as a user runs it: table, exit code, messages."""

import subprocess
import sys
from pathlib import Path

import pytest

from streamer.commands import cli
from support.made_runs import (
    MadeRun,
    flip_in_page,
    make_killed_run,
    make_run,
)


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return make_run(tmp_path)


@pytest.fixture
def killed(tmp_path: Path) -> MadeRun:
    return make_killed_run(tmp_path)


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    return int(exit_.value.code or 0)


def test_the_command_prints_a_table_and_exits_0(run, capsys):
    assert command("check", str(run.path)) == 0
    printed = capsys.readouterr().out
    for name in ("manifest", "part files", "schemas", "footers", "rows", "counts", "input"):
        assert name in printed
    assert "is whole: 8 rows and 3 rejected" in printed.replace("\n", " ")


def test_the_command_exits_1_with_the_first_fault(run, capsys):
    flip_in_page(run)
    assert command("check", str(run.path)) == 1
    captured = capsys.readouterr()
    assert "fault" in captured.out
    assert "metrics/part-00001.parquet: row group 1 cannot be read" in captured.err
    assert "Traceback" not in captured.err


def test_the_command_repairs_and_then_checks(killed, capsys):
    assert command("check", str(killed.path), "--repair") == 0
    printed = capsys.readouterr().out
    assert "removed: metrics/part-00002.parquet.tmp, rejected/part-00002.parquet" in printed
    assert not killed.part("rejected", 2).exists()


def test_the_command_can_leave_the_input_unread(run, capsys):
    run.input.write_text(run.input.read_text().replace("\n", " ", 1))
    run.know_input()
    assert command("check", str(run.path), "--no-input") == 0
    assert command("check", str(run.path)) == 1


@pytest.mark.parametrize("flag", [[], ["--repair"]])
def test_what_is_no_run_is_refused(flag, tmp_path, capsys):
    assert command("check", str(tmp_path), *flag) == 2
    assert "no run in" in capsys.readouterr().err
    assert command("check", str(tmp_path / "nowhere"), *flag) == 2
    assert command("check", __file__, *flag) == 2
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "manifest.json").write_text('{"name": "of another program"}')
    assert command("check", str(tmp_path), *flag) == 2
    assert "manifest.json cannot be read: it is not the manifest" in capsys.readouterr().err


def test_checking_does_not_load_torch(run):
    code = (
        "import sys; from streamer.commands import cli\n"
        "try: cli.main(['check', sys.argv[1]])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(run.path)], check=True)
