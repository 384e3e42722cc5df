"""The input, looked at again by `streamer check`."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard

from streamer.concurrency.retry import RetryPolicy
from streamer.loading.identity import identity
from streamer.loading.sources import expand
from support.made_runs import (
    MadeRun,
    look,
    make_run,
)


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return make_run(tmp_path)


def test_input_that_is_gone_is_not_checked_and_no_fault(run):
    run.input.unlink()
    report = look(run)
    assert report.first_fault is None
    assert report.inputs.state == "not checked"
    assert f"not checked: {run.input} (not found)" in report.inputs.found


def test_standard_input_is_not_checked(run):
    run.manifest(inputs=[{"name": "-", "bytes": None}], config={"paths": ["-"]})
    replaced = pa.array(["-"] * 11)
    for number in range(3):
        for table in ("metrics", "rejected"):
            if run.part(table, number).exists():
                place = 2 if table == "metrics" else 1
                run.rewrite(
                    table,
                    number,
                    lambda rows, place=place: rows.set_column(
                        place, rows.schema.field(place), replaced.slice(0, rows.num_rows)
                    ),
                )
    report = look(run)
    assert report.first_fault is None
    assert "not checked: - (it can be read only once)" in report.inputs.found


def test_a_pipe_is_not_waited_for(run):
    run.input.unlink()
    os.mkfifo(run.input)
    report = look(run)
    assert report.first_fault is None
    assert "it can be read only once" in report.inputs.found


def test_a_change_in_the_middle_is_found_by_counting_alone(tmp_path):
    run = make_run(tmp_path, commits=[(0, 10_000)], row_group=5_000)
    text = run.input.read_text()
    assert len(text) > 3 * 64 * 1024
    middle = text.index("\n", len(text) // 2)
    run.input.write_text(f"{text[:middle]} {text[middle + 1 :]}")
    unread = look(run, read_input=False)
    assert unread.first_fault is None
    assert "1 of 1 unchanged; 1 with another time of modification" in unread.inputs.found
    assert "records not counted (--no-input)" in unread.inputs.found
    first = look(run).inputs.first
    assert first == f"{run.input}: it has 9,999 records, the run has 10,000 of it"


def test_without_reading_the_input_its_size_and_ends_are_still_compared(run):
    text = run.input.read_text()
    run.input.write_text(text.replace("text 0", "text X"))
    assert "its first 64 KiB are others" in look(run, read_input=False).inputs.first
    run.input.write_text(text + "\n")
    assert "its size was" in look(run, read_input=False).inputs.first


def test_a_new_time_of_modification_is_said_and_no_fault(run):
    os.utime(run.input, (1, 1))
    report = look(run)
    assert report.first_fault is None
    assert "11 records in them; 1 with another time of modification" in report.inputs.found


def test_input_that_was_followed_is_not_checked(run):
    run.manifest(config={"paths": [str(run.input)], "follow": True}, inputs=[])
    report = look(run)
    assert report.first_fault is None
    assert "followed" in report.inputs.found


def test_relative_paths_begin_where_the_run_was_begun(run, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    run.manifest(config={"paths": ["in.jsonl"]}, working_directory=str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run.manifest(inputs=[identity(one, RetryPolicy()) for one in expand(["in.jsonl"])])
    monkeypatch.chdir(tmp_path / "elsewhere")
    report = look(run, read_input=False)
    assert "1 of 1 unchanged" in report.inputs.found
    assert Path.cwd() == tmp_path / "elsewhere"
    (tmp_path / "in.jsonl").write_text("{}")
    assert "in.jsonl: its size was" in look(run).inputs.first


def test_a_limit_is_what_the_input_has(run):
    run.manifest(config={"paths": [str(run.input)], "limit": 11})
    with run.input.open("a") as file:
        file.write("{}\n{}\n")
    run.know_input()
    assert look(run).first_fault is None
    run.manifest(config={"paths": [str(run.input)], "limit": 12})
    assert "it has 12 records, the run has 11 of it" in look(run).first_fault


def test_rows_of_a_source_that_was_no_input_are_named(run):
    other = pa.array(["other.jsonl"] * 3)
    run.rewrite("metrics", 2, lambda rows: rows.set_column(2, rows.schema.field(2), other))
    run.input.write_text("".join(run.input.read_text().splitlines(keepends=True)[:8]))
    run.know_input()
    first = look(run).inputs.first
    assert first == "rows have the source other.jsonl, which is no input in the manifest"


def test_compressed_input_is_counted(run):
    packed = run.input.with_suffix(".jsonl.zst")
    packed.write_bytes(zstandard.compress(run.input.read_bytes()))
    run.input.unlink()
    packed.rename(run.input)
    run.know_input()
    assert "11 records" in look(run).inputs.found
