"""`streamer check` of a run that several shards have written: all together are one run."""

from pathlib import Path

import pytest

from streamer.errors import UsageError
from streamer.results.check.leftovers import repair
from streamer.results.run import Run
from streamer.writing.names import Names, Part
from streamer.writing.storage.local import LocalStorage
from support.made_runs import MadeRun, look, make_run

FIRST, SECOND = Names("s0000"), Names("s0001")
SHARDS = (Part("s0000", 0), Part("s0000", 1), Part("s0001", 0))
"""What the three commits of a run become: of rows 0 to 3, 4 to 7, and 8 to 10."""
TABLES = ("metrics", "rejected")


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    run = make_run(tmp_path, bad=(2, 6, 9))
    for table in TABLES:
        run.footer(table, 2, counts={"records": 3, "rows": 2, "rejected": 1})
        for number, part in enumerate(SHARDS):
            run.part(table, number).rename(run.path / table / part.file)
    return run


def file(run: MadeRun, table: str, part: Part) -> Path:
    return run.path / table / part.file


def test_a_run_of_two_shards_is_whole_and_in_order(run):
    report = look(run)
    assert [line.state for line in report.lines] == ["ok"] * 8, report.first_fault
    assert "whole: 8 rows and 3 rejected" in report.verdict
    assert "11, each once and in order" in report.rows.found
    rows = Run(run.path, {}).table("metrics")["row"].to_pylist()
    assert rows == [0, 1, 3, 4, 5, 7, 8, 10]


def test_a_commit_that_is_missing_at_the_end_of_a_shard_is_missed(run):
    for table in TABLES:
        file(run, table, SHARDS[1]).unlink()
    fault = "metrics/part-s0001-00000.parquet begins with row 8, but the parts before it end with"
    assert fault in look(run).footers.first
    run.manifest(status="running", counts={})  # the first shard has not come so far yet
    report = look(run)
    assert report.first_fault is None
    assert "7, each once and in order" in report.rows.found


def test_a_commit_that_is_missing_in_a_shard_is_missed(run):
    run.manifest(status="running", counts={})
    file(run, "metrics", SHARDS[0]).unlink()
    assert "metrics/part-s0000-00000.parquet is missing" in look(run).footers.first


def test_shards_that_overlap_are_told_though_they_are_at_work(run):
    file(run, "metrics", SHARDS[2]).rename(run.part("metrics", 5))
    run.footer("metrics", 5, first_row=7)
    run.part("metrics", 5).rename(file(run, "metrics", SHARDS[2]))
    run.manifest(status="running", counts={})
    assert "begins with row 7, but the parts before it end with row 8" in look(run).footers.first


def test_what_shards_left_that_were_killed_is_removed_and_nothing_else(run):
    run.manifest(status="running", counts={})
    file(run, "metrics", SHARDS[2]).rename(f"{file(run, 'metrics', SHARDS[2])}.tmp")
    file(run, "metrics", SHARDS[1]).unlink()
    (run.path / SECOND.folder).mkdir(parents=True)
    (run.path / SECOND.folder / "manifest.json.tmp").write_text("{")
    left = [
        "rejected/part-s0000-00001.parquet",
        "metrics/part-s0001-00000.parquet.tmp",
        "shards/s0001/manifest.json.tmp",
        "rejected/part-s0001-00000.parquet",
    ]
    before = run.files()
    report = look(run)
    assert report.first_fault is None
    assert report.leftovers.found.startswith(", ".join(left[:3]))
    assert repair(run.storage) == left
    locks = {".lock", f"{FIRST.folder}/.lock", f"{SECOND.folder}/.lock"}
    assert run.files().keys() - locks == before.keys() - set(left)
    assert "nothing" in look(run).leftovers.found


def test_a_part_beyond_the_last_commit_of_its_shard_is_kept_as_evidence(run):
    run.manifest(status="running", counts={})
    for part in SHARDS[:2]:
        file(run, "metrics", part).unlink()
    assert "rejected/part-s0000-00001.parquet is beyond" in look(run).leftovers.first
    assert repair(run.storage) == ["rejected/part-s0000-00000.parquet"]


def test_a_run_is_left_alone_while_one_shard_is_at_work(run):
    lock = LocalStorage(run.path).lock(SECOND.own(".lock"))
    assert look(run).leftovers.state == "not checked"
    with pytest.raises(UsageError, match="being written by another process"):
        repair(run.storage)
    lock.release()
    assert look(run).leftovers.state == "ok"
    assert repair(run.storage) == []
