"""The input, looked at again by `streamer check`."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard

from made_runs import (
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
    assert f"not checked: {run.input} (not found)" in report.inputs.said


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
    assert "not checked: - (it can be read only once)" in report.inputs.said


def test_a_pipe_is_not_waited_for(run):
    run.input.unlink()
    os.mkfifo(run.input)
    report = look(run)
    assert report.first_fault is None
    assert "it can be read only once" in report.inputs.said


def test_without_reading_the_input_its_size_is_still_compared(run):
    run.input.write_text(run.input.read_text().replace("\n", " ", 1))
    assert look(run, read_input=False).first_fault is None
    assert "records not counted (--no-input)" in look(run, read_input=False).inputs.said
    run.input.write_text("{}\n")
    assert "changed since it was read" in look(run, read_input=False).inputs.first


def test_a_limit_is_what_the_input_has(run):
    run.manifest(config={"paths": [str(run.input)], "limit": 11})
    with run.input.open("a") as file:
        file.write("{}\n{}\n")
    run.manifest(inputs=[{"name": str(run.input), "bytes": run.input.stat().st_size}])
    assert look(run).first_fault is None
    run.manifest(config={"paths": [str(run.input)], "limit": 12})
    assert "it has 12 records, the run has 11 of it" in look(run).first_fault


def test_compressed_input_is_counted(run):
    packed = run.input.with_suffix(".jsonl.zst")
    packed.write_bytes(zstandard.compress(run.input.read_bytes()))
    run.input.unlink()
    packed.rename(run.input)
    run.manifest(inputs=[{"name": str(run.input), "bytes": run.input.stat().st_size}])
    assert "11 records" in look(run).inputs.said
