"""Runs of the pipeline itself, looked over by `streamer check`."""

import pyarrow.parquet as pq
import pytest

from conftest import run_with
from streamer.checking.audit import check
from streamer.checking.report import Report
from streamer.runs import Run

GOOD = '{"prompt": "The sky is", "fact": "blue", "hallucination": "green"}'


def look(run: Run) -> Report:
    return check(run.path, True, lambda _: None)


def test_a_run_of_the_pipeline_is_whole(tmp_path):
    lines = [GOOD, "rubbish", GOOD, GOOD, "{}", GOOD, GOOD]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
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
    assert f"{limit or 200} records" in report.inputs.said


def test_a_run_of_nothing_is_whole(tmp_path):
    (tmp_path / "in.jsonl").write_text("")
    run, _ = run_with(
        None, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN", kind="contrast"
    )
    report = look(run)
    assert [line.state for line in report.lines] == ["ok"] * 8, report.first_fault
