"""`streamer check`: a good run passes, and every damage is named."""

import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from streamer.results.check.parts import Damaged, OpenPart
from streamer.writing.parts import PartWriter
from streamer.writing.storage.local import LocalStorage
from support.damages import DAMAGES
from support.made_runs import (
    METRICS,
    MadeRun,
    flip_in_page,
    look,
    make_run,
    metrics_rows,
)


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return make_run(tmp_path)


def test_a_good_run_passes(run):
    report = look(run)
    assert [line.state for line in report.lines] == ["ok"] * 8, report.first_fault
    assert report.first_fault is None
    assert "whole: 8 rows and 3 rejected" in report.verdict
    assert "1 of 1 unchanged, 11 records" in report.inputs.found


@pytest.mark.parametrize(
    "shape",
    [
        {"bad": ()},
        {"bad": range(11)},
        {"bad": (8, 9, 10)},
        {"commits": [(0, 11)], "row_group": 3},
        {"commits": [(row, row + 1) for row in range(11)]},
        {"commits": [(0, 0)]},
        {"commits": []},
    ],
    ids=["nothing rejected", "all rejected", "a commit rejected", "one", "many", "empty", "none"],
)
def test_good_runs_of_every_shape_pass(shape, tmp_path):
    report = look(make_run(tmp_path, **shape))
    assert [line.state for line in report.lines] == ["ok"] * 8, report.first_fault


def test_an_empty_part_of_the_first_commit_is_missed(tmp_path):
    """Without it, nothing matches rejected/*.parquet."""
    run = make_run(tmp_path, bad=())
    assert look(run).first_fault is None
    run.drop("rejected", 0)
    assert "rejected/part-00000.parquet is missing" in look(run).footers.first


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_named(name, run):
    damage, line, message = DAMAGES[name]
    damage(run)
    report = look(run)
    assert report.first_fault is not None
    first = next(one for one in report.lines if one.faults)
    assert first is getattr(report, line), report.first_fault
    assert re.search(message, first.first), first.first


def test_every_byte_of_a_part_is_guarded_or_changes_nothing(run):
    part = run.part("metrics", 1)
    good, table = part.read_bytes(), pq.read_table(part)
    places = random.Random(0).sample(range(len(good)), 400)
    caught = 0
    for place in places:
        data = bytearray(good)
        data[place] ^= 1 << place % 8
        part.write_bytes(data)
        if look(run, read_input=False).first_fault is None:
            assert pq.read_table(part).equals(table), f"byte {place} of {len(good)}"
        else:
            caught += 1
    assert caught > 200


def test_a_damaged_maximum_that_readers_believe_is_named(run):
    """A reader passes over the row groups whose maximum is less than what it looks for."""
    part = run.part("metrics", 1)
    group = pq.read_metadata(part).row_group(0)
    maximum = np.float32(group.column(group.num_columns - 2).statistics.max)
    large = [("l1_x", ">", float(maximum) / 2)]
    rows = pq.read_table(part, filters=large).num_rows
    data = bytearray(part.read_bytes())
    data[data.rfind(maximum.tobytes()) + 3] ^= 1  # of its exponent: a quarter of what it was
    part.write_bytes(data)
    assert pq.read_table(part, filters=large).num_rows == rows - 1
    report = look(run)
    assert report.files.first == (
        "metrics/part-00001.parquet cannot be opened: its footer and the copy of it differ"
    )


def test_the_writer_puts_checksums_on_its_pages(tmp_path):
    rows = metrics_rows(range(200), tmp_path)
    parts = PartWriter(LocalStorage(tmp_path), "metrics", METRICS, row_group_rows=100)
    parts.append(rows)
    parts.finish({})
    name = parts.publish()
    path = tmp_path / name
    column = pq.read_metadata(path).row_group(0).column(5)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 20] ^= 1
    path.write_bytes(data)
    with OpenPart(LocalStorage(tmp_path), name) as part, pytest.raises(Damaged, match="CRC"):
        list(part.row_groups())


def test_all_faults_are_counted_and_the_first_cause_is_told(run):
    flip_in_page(run)
    run.part("rejected", 0).write_bytes(b"")
    run.manifest(counts={"records": 1, "rows": 1, "rejected": 1})
    report = look(run)
    assert report.files.detail.startswith("rejected/part-00000.parquet cannot be opened")
    assert report.files.detail.endswith("(and 1 more)")
    assert report.counts.faults
    assert "rejected/part-00000.parquet" in report.first_fault
    assert "restore it from a copy" in report.first_fault


PEAK = """
import pathlib, sys, tracemalloc
import pyarrow as pa
from streamer.results.check.audit import check
from streamer.writing.storage.local import LocalStorage
for path in sys.argv[1:]:  # the first one loads what is loaded at the first use
    tracemalloc.start()
    report = check(LocalStorage(pathlib.Path(path)), False, lambda _: None)
    assert report.first_fault is None, report.first_fault
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
print(pa.default_memory_pool().max_memory() + peak)
"""


def peak(run: MadeRun, small: MadeRun) -> int:
    """Bytes that checking `run` holds at most, of Arrow's and Python's memory."""
    command = [sys.executable, "-c", PEAK, str(small.path), str(run.path)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_memory_is_that_of_a_part_however_many_there_are(run, tmp_path):
    peaks = []
    for parts in (3, 30):
        folder = tmp_path / str(parts)
        folder.mkdir()
        commits = [(5_000 * number, 5_000 * (number + 1)) for number in range(parts)]
        peaks.append(peak(make_run(folder, commits=commits, row_group=1_000), run))
    assert peaks[1] < 2 * peaks[0], peaks  # of ten times as many


def test_memory_is_that_of_a_row_group_however_large_the_part(run, tmp_path):
    (tmp_path / "large").mkdir()
    large = make_run(tmp_path / "large", commits=[(0, 50_000)], row_group=1_000)
    held = pq.read_table(large.part("metrics", 0)).nbytes
    assert peak(large, run) < held / 2
