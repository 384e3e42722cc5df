"""Runs of the pipeline itself, looked over by `streamer check`."""

import signal
import sys

import pyarrow.parquet as pq
import pytest

from streamer.results.check.audit import check
from streamer.results.check.leftovers import repair
from streamer.results.check.report import Report
from streamer.results.run import Run
from streamer.writing.storage.local import LocalStorage
from support.killing import DYING
from support.processes import GOOD, Popen
from support.processes import run as command
from support.runs import run_with


def look(run: Run) -> Report:
    return check(run.storage, True, lambda _: None)


def test_a_run_of_the_pipeline_is_whole(tmp_path):
    lines = [GOOD, "rubbish\n", GOOD, GOOD, "{}\n", GOOD, GOOD]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    run, _ = run_with(
        None,
        paths=[str(tmp_path / "in.jsonl")],
        out=tmp_path / "RUN",
        window=2,
        part_rows=1,
        row_group_rows=2,
        batch_size=1,
    )
    report = look(run)
    assert [line.state for line in report.lines] == ["ok"] * 8, report.first_fault
    assert len(run.parts("metrics")) > 1
    part = run.parts("metrics")[0]
    data = bytearray(part.read_bytes())
    column = pq.read_metadata(part).row_group(0).column(4)
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    part.write_bytes(data)
    assert "metrics/part-00000.parquet: row group 0 cannot be read" in str(look(run).first_fault)


@pytest.mark.parametrize("limit", [None, 70])
def test_a_run_of_the_embedded_records_is_whole(limit, tmp_path):
    run, _ = run_with(None, out=tmp_path / "RUN", limit=limit)
    report = look(run)
    assert [line.state for line in report.lines] == ["ok"] * 8, report.first_fault
    assert f"{limit or 200} records" in report.inputs.found


def test_a_run_of_nothing_is_whole(tmp_path):
    (tmp_path / "in.jsonl").write_text("")
    run, _ = run_with(
        None, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN", kind="contrast"
    )
    report = look(run)
    assert [line.state for line in report.lines] == ["ok"] * 8, report.first_fault


def test_a_run_killed_between_two_steps_of_a_commit_is_repaired_and_finished(tmp_path):
    (tmp_path / "in.jsonl").write_text(f"{GOOD}rubbish\n" * 10)
    arguments = ["--window", "2", "--part-rows", "2", "--batch-size", "1", "--progress", "none"]
    dying = DYING.format(
        die_at="published rejected/part-00001.parquet",
        arguments=["run", "in.jsonl", "--out", "RUN", *arguments],
    )
    process = Popen([sys.executable, "-c", dying], cwd=tmp_path)
    assert process.wait() == -signal.SIGKILL
    killed = check(LocalStorage(tmp_path / "RUN"), True, lambda _: None)
    assert killed.first_fault is None
    assert "is not finished (resuming goes on from here) and whole as far" in killed.verdict
    assert repair(LocalStorage(tmp_path / "RUN")) == [
        "metrics/part-00001.parquet.tmp",
        "rejected/part-00001.parquet",
    ]
    assert command("resume", "RUN", folder=tmp_path).returncode == 0
    checked = command("check", "RUN", folder=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "RUN is whole: 10 rows and 10 rejected" in checked.stdout
