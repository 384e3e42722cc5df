"""The commit protocol: a kill between any two of its steps leaves all tables at one row."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamer.errors import RunFault
from streamer.records import Position
from streamer.writing.commit import (
    Checkpoint,
    commit,
    orphans,
    read_checkpoint,
    temporary_files,
    tidy,
)
from streamer.writing.fault_points import VARIABLE
from streamer.writing.parts import PartWriter

SCHEMA = pa.schema([("row", pa.int64())])
OTHERS = {1: (), 3: ("activations", "rejected")}
"""Tables beside `metrics`, by how many there are in all."""
COMMITS, ROWS = 3, 10


def write_on(folder: Path, others: tuple[str, ...]) -> None:
    """Write `COMMITS` commits of `ROWS` rows into every table, from where the folder stands."""
    tidy(folder)
    begin = read_checkpoint(folder)
    tables = [PartWriter(folder / name, SCHEMA, 4, begin.number) for name in (*others, "metrics")]
    for number in range(begin.number, COMMITS):
        first = number * ROWS
        rows = pa.table({"row": range(first, first + ROWS)}, schema=SCHEMA)
        for parts in tables:
            parts.begin(number)
            parts.append(rows)
        footer = {
            "first_row": first,
            "end_row": first + ROWS,
            "places": [{"source": "a", "position": first + ROWS, "offset": 0}],
            "counts": {"records": first + ROWS},
        }
        commit(number, tables, footer)


def die_at(step: str, folder: Path, others: tuple[str, ...]) -> int:
    """Write in a process of its own, which is killed at `step`; its exit code."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from pathlib import Path; from test_commit import write_on\n"
        f"write_on(Path({str(folder)!r}), {others!r})"
    )
    environment = {**os.environ, VARIABLE: step}
    return subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode


def steps(others: tuple[str, ...]) -> list[str]:
    """Every step of the second commit, in order."""
    tables = (*others, "metrics")
    renamed = [f"1 renamed {name}{ending}" for name in tables for ending in ("", " for good")]
    return [f"1 finished {name}" for name in tables] + renamed


CASES = [(count, step) for count, others in OTHERS.items() for step in steps(others)]


@pytest.mark.parametrize(("count", "step"), CASES)
def test_a_kill_between_two_steps_leaves_a_whole_commit_or_none(count, step, tmp_path):
    others = OTHERS[count]
    assert die_at(step, tmp_path, others) == -signal.SIGKILL
    left = temporary_files(tmp_path) + orphans(tmp_path)
    assert tidy(tmp_path) == left
    assert tidy(tmp_path) == []
    begin = read_checkpoint(tmp_path)
    made = step.startswith("1 renamed metrics")  # from then on the commit exists
    assert (begin.number, begin.row) == ((2, 2 * ROWS) if made else (1, ROWS))
    assert bool(left) == (not made)
    for name in (*others, "metrics"):
        parts = sorted((tmp_path / name).iterdir())
        assert sum(pq.read_metadata(part).num_rows for part in parts) == begin.row
    write_on(tmp_path, others)
    for name in (*others, "metrics"):
        table = pq.read_table(tmp_path / name)
        assert table["row"].to_pylist() == list(range(COMMITS * ROWS))


def test_every_step_of_a_commit_is_tried(tmp_path, monkeypatch):
    seen = []
    for module in ("commit", "parts"):
        monkeypatch.setattr(f"streamer.writing.{module}.reached", seen.append)
    write_on(tmp_path, OTHERS[3])
    assert [step for step in seen if step.startswith("1 ")] == steps(OTHERS[3])


def test_the_last_commit_says_where_to_go_on(tmp_path):
    assert read_checkpoint(tmp_path) == Checkpoint()
    write_on(tmp_path, ())
    place = Position("a", 30, 0)
    assert read_checkpoint(tmp_path) == Checkpoint(3, 30, (place,), {"records": 30})


def test_a_table_without_rows_has_no_part_but_in_the_first_commit(tmp_path):
    tables = [PartWriter(tmp_path / name, SCHEMA, 4) for name in ("rejected", "metrics")]
    for number in range(2):
        for parts in tables:
            parts.begin(number)
        commit(number, tables, {})
    assert [path.name for path in (tmp_path / "rejected").iterdir()] == ["part-00000.parquet"]
    assert len(list((tmp_path / "metrics").iterdir())) == 2


def test_a_damaged_last_part_is_named(tmp_path):
    write_on(tmp_path, ())
    last = tmp_path / "metrics" / "part-00002.parquet"
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(RunFault, match=r"part-00002\.parquet is damaged"):
        read_checkpoint(tmp_path)
