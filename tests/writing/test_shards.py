"""Several writers in one run directory: each sees and removes its own files alone."""

import json
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from streamer.errors import UsageError
from streamer.records import Counts, Position
from streamer.results.run import Run
from streamer.writing.commit import (
    Checkpoint,
    commit,
    orphans,
    read_checkpoint,
    tidy,
    unpublished_files,
    writers,
)
from streamer.writing.directory import RunDirectory
from streamer.writing.event_log import EventLog
from streamer.writing.names import WHOLE, Names, Part, part_of
from streamer.writing.parts import PartWriter
from streamer.writing.storage.base import Storage
from streamer.writing.storage.local import LocalStorage
from support.processes import Popen

SCHEMA = pa.schema([("row", pa.int64())])
TABLES = ("rejected", "metrics")
ROWS = 10
FIRST, SECOND = Names("s0000"), Names("s0001")
BEGIN = {FIRST: Checkpoint(row=0), SECOND: Checkpoint(row=100)}


def write_on(storage: Storage, names: Names, upto: int) -> None:
    """Write the commits of one shard from where it stands, `upto` of them in all."""
    begin = read_checkpoint(storage, "metrics", names, BEGIN[names])
    tables = [PartWriter(storage, name, SCHEMA, 4, names=names) for name in TABLES]
    for number in range(begin.number, upto):
        first = BEGIN[names].row + number * ROWS
        for parts in tables:
            parts.begin(number)
            parts.append(pa.table({"row": range(first, first + ROWS)}, schema=SCHEMA))
        footer = {
            "first_row": first,
            "end_row": first + ROWS,
            "places": [{"source": "a", "position": first + ROWS, "offset": 0}],
            "counts": {"records": (number + 1) * ROWS},
        }
        commit(number, tables, footer)


def kill_at(step: str, folder: Path, names: Names) -> None:
    """Have a process of its own write three commits, and killed at `step`."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from pathlib import Path; from support.killing import KillingStorage\n"
        f"from test_shards import Names, write_on\n"
        f"storage = KillingStorage(Path({str(folder)!r}), die_at={step!r})\n"
        f"write_on(storage, {names!r}, 3)"
    )
    assert Popen([sys.executable, "-c", script]).wait() == -signal.SIGKILL


STEPS = [
    (step.format(table), names)
    for step in ("finished {}", "renamed {}", "published {}")
    for table in TABLES
    for names in (FIRST, SECOND)
]


@pytest.mark.parametrize(("step", "dying"), STEPS)
def test_one_that_is_killed_in_a_commit_and_one_that_goes_on(step, dying, tmp_path):
    going_on = SECOND if dying is FIRST else FIRST
    storage = LocalStorage(tmp_path)
    write_on(storage, going_on, 1)
    kill_at(f"{step}/{Part(dying.shard, 1).file}", tmp_path, dying)
    left = [*unpublished_files(storage, dying), *orphans(storage, "metrics", dying)]
    made = step in ("renamed metrics", "published metrics")
    assert bool(left) == (not made)
    write_on(storage, going_on, 2)
    (tmp_path / going_on.part("metrics", 2)).with_suffix(".parquet.tmp").touch()  # it is at work
    assert tidy(storage, "metrics", dying) == left
    assert tidy(storage, "metrics") == []
    assert unpublished_files(storage, going_on) == [f"{going_on.part('metrics', 2)}.tmp"]
    end = BEGIN[going_on].row + 2 * ROWS
    place, counts = Position("a", end, 0), Counts(records=2 * ROWS)
    at_end = Checkpoint(2, end, (place,), counts, frozenset(TABLES))
    assert read_checkpoint(storage, "metrics", going_on, BEGIN[going_on]) == at_end
    found = read_checkpoint(storage, "metrics", dying, BEGIN[dying])
    assert (found.number, found.row) == (1 + made, BEGIN[dying].row + (1 + made) * ROWS)
    write_on(storage, dying, 3)
    rows = {FIRST: range(30), SECOND: range(100, 130)}
    rows[going_on] = rows[going_on][: 2 * ROWS]
    for table in TABLES:
        assert Run(tmp_path, {}).table(table)["row"].to_pylist() == [
            *rows[FIRST],
            *rows[SECOND],
        ]


def test_one_that_has_written_nothing_stands_at_the_beginning_of_its_range(tmp_path):
    write_on(LocalStorage(tmp_path), FIRST, 2)
    assert (
        read_checkpoint(LocalStorage(tmp_path), "metrics", SECOND, BEGIN[SECOND]) == BEGIN[SECOND]
    )


def test_names_in_order_are_rows_in_order():
    parts = [Part(f"s{shard:04d}", number) for shard in (0, 1, 10, 999) for number in (0, 1, 99999)]
    files = [part.file for part in parts]
    assert sorted(parts) == parts
    assert sorted(files) == files
    assert [part_of(file) for file in files] == parts
    assert Part("", 3).file == "part-00003.parquet"
    long = [Part("s0000", 99999), Part("s0000", 100000), Part("s0001", 0)]
    assert sorted(long) == long


@pytest.mark.parametrize(
    "file", ["part-1.parquet", "part-0000001.parquet", "part-s-1-00001.parquet", "x.parquet"]
)
def test_other_files_are_no_parts(file):
    assert part_of(file) is None


@pytest.mark.parametrize("shard", ["S1", "1", "a-b", "a/b", ".."])
def test_a_shard_that_would_confuse_names_is_refused(shard):
    with pytest.raises(ValueError, match="a shard cannot be called"):
        Names(shard)


def test_each_has_a_lock_a_log_and_a_manifest_of_its_own(tmp_path):
    storage = LocalStorage(tmp_path / "RUN")
    held = {}
    for names in (WHOLE, FIRST, SECOND):
        held[names] = RunDirectory.make(storage, log := EventLog(), names)
        log.write("started", {"shard": names.shard})
        held[names].begin(shard=names.shard)
    for names, directory in held.items():
        with pytest.raises(UsageError, match="another process is writing"):
            RunDirectory(storage, EventLog(), names=names)
        directory.leave()
        RunDirectory(storage, EventLog(), names=names).leave()
        folder = tmp_path / "RUN" / names.folder
        files = {path.name for path in folder.iterdir() if path.is_file()}
        assert files == {".lock", "log.jsonl", "manifest.json"}
        assert json.loads((folder / "log.jsonl").read_text())["shard"] == names.shard
        assert json.loads((folder / "manifest.json").read_text())["shard"] == names.shard
    with pytest.raises(UsageError, match="s0001 holds a run already"):
        RunDirectory.make(storage, EventLog(), SECOND)


def test_all_that_have_written_are_found(tmp_path):
    storage = LocalStorage(tmp_path)
    assert writers(storage) == [WHOLE]
    write_on(storage, SECOND, 1)
    assert writers(storage) == [WHOLE, SECOND]
    (tmp_path / "metrics" / "part-s0000-00000.parquet.tmp").touch()
    (tmp_path / "shards" / "s0002").mkdir(parents=True)
    assert writers(storage) == [WHOLE, FIRST, SECOND, Names("s0002")]
