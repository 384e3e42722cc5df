"""The commit protocol: a kill between any two of its steps leaves all tables at one row."""

import signal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamer.errors import RunFault
from streamer.records import Counts, Position
from streamer.writing.commit import (
    Checkpoint,
    commit,
    orphans,
    read_checkpoint,
    tidy,
    unpublished_files,
)
from streamer.writing.parts import PartWriter
from streamer.writing.storage.base import Storage
from streamer.writing.storage.local import LocalStorage
from support.killing import KillingStorage
from support.processes import Popen

SCHEMA = pa.schema([("row", pa.int64())])
LEADING = "metrics"
OTHERS = {1: (), 3: ("activations", "rejected")}
"""Tables beside `metrics`, by how many there are in all."""
COMMITS, ROWS = 3, 10


def write_on(storage: Storage, others: tuple[str, ...]) -> None:
    """Write `COMMITS` commits of `ROWS` rows into every table, from where the run stands."""
    tidy(storage, LEADING)
    begin = read_checkpoint(storage, LEADING)
    tables = [PartWriter(storage, name, SCHEMA, 4, begin.number) for name in (*others, LEADING)]
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
        f"from pathlib import Path; from test_commit import KillingStorage, write_on\n"
        f"write_on(KillingStorage(Path({str(folder)!r}), die_at={step!r}), {others!r})"
    )
    return Popen([sys.executable, "-c", script]).wait()


def steps(others: tuple[str, ...]) -> list[str]:
    """Every step of the second commit, in order."""
    parts = [f"{table}/part-00001.parquet" for table in (*others, LEADING)]
    publishing = [f"{step} {part}" for part in parts for step in ("renamed", "published")]
    created = [f"created {part}" for part in parts]
    return [*created, *(f"finished {part}" for part in parts), *publishing]


CASES = [(count, step) for count, others in OTHERS.items() for step in steps(others)]


@pytest.mark.parametrize(("count", "step"), CASES)
def test_a_kill_between_two_steps_leaves_a_whole_commit_or_none(count, step, tmp_path):
    others = OTHERS[count]
    assert die_at(step, tmp_path, others) == -signal.SIGKILL
    storage = LocalStorage(tmp_path)
    left = unpublished_files(storage) + orphans(storage, LEADING)
    assert tidy(storage, LEADING) == left
    assert tidy(storage, LEADING) == []
    begin = read_checkpoint(storage, LEADING)
    made = step.startswith(("renamed metrics", "published metrics"))  # the commit exists
    assert (begin.number, begin.row) == ((2, 2 * ROWS) if made else (1, ROWS))
    assert bool(left) == (not made)
    for name in (*others, LEADING):
        parts = sorted((tmp_path / name).iterdir())
        assert sum(pq.read_metadata(part).num_rows for part in parts) == begin.row
    write_on(storage, others)
    for name in (*others, LEADING):
        table = pq.read_table(tmp_path / name)
        assert table["row"].to_pylist() == list(range(COMMITS * ROWS))


def test_every_step_of_a_commit_is_tried(tmp_path):
    storage = KillingStorage(tmp_path)
    write_on(storage, OTHERS[3])
    assert [step for step in storage.steps if "part-00001" in step] == steps(OTHERS[3])


def test_the_last_commit_says_where_to_go_on(tmp_path):
    storage = LocalStorage(tmp_path)
    assert read_checkpoint(storage, LEADING) == Checkpoint()
    write_on(storage, ())
    place = Position("a", 30, 0)
    assert read_checkpoint(storage, LEADING) == Checkpoint(
        3, 30, (place,), Counts(records=30), frozenset([LEADING])
    )


def test_a_table_without_rows_has_no_part_but_in_the_first_commit(tmp_path):
    storage = LocalStorage(tmp_path)
    tables = [PartWriter(storage, name, SCHEMA, 4) for name in ("rejected", "metrics")]
    for number in range(2):
        for parts in tables:
            parts.begin(number)
        commit(number, tables, {})
    assert [path.name for path in (tmp_path / "rejected").iterdir()] == ["part-00000.parquet"]
    assert len(list((tmp_path / "metrics").iterdir())) == 2


def test_a_damaged_last_part_is_named(tmp_path):
    storage = LocalStorage(tmp_path)
    write_on(storage, ())
    last = tmp_path / "metrics" / "part-00002.parquet"
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(RunFault, match=r"part-00002\.parquet is damaged"):
        read_checkpoint(storage, LEADING)
