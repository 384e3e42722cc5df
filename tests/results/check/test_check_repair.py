"""What a crash leaves is no fault; --repair removes it, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from streamer.errors import RunFault, UsageError
from streamer.results.check.leftovers import repair
from streamer.writing.commit import tidy
from streamer.writing.storage.local import LocalStorage
from support.made_runs import (
    MadeRun,
    flip_in_page,
    look,
    make_killed_run,
    make_run,
    rejected_rows,
    write_part,
)

HOLD = """
import sys, filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return make_run(tmp_path)


@pytest.fixture
def killed(tmp_path: Path) -> MadeRun:
    return make_killed_run(tmp_path)


def test_a_killed_run_is_not_broken(killed):
    before = killed.files()
    report = look(killed)
    assert report.first_fault is None
    assert "not finished" in report.verdict
    assert "5 rows and 3 rejected" in report.verdict
    assert "metrics/part-00002.parquet.tmp, rejected/part-00002.parquet" in report.leftovers.found
    assert "`streamer check --repair` removes what a crash left" in report.leftovers.found
    assert "records not counted (the run is not finished)" in report.inputs.found
    assert killed.files() == before


def test_a_run_killed_before_its_first_part_is_not_broken(tmp_path):
    run = make_run(tmp_path, commits=[], status="running")
    assert look(run).first_fault is None
    footer = {"first_row": 0, "end_row": 2, "tables": {"metrics": 1, "rejected": 1}, "counts": {}}
    write_part(run.part("rejected", 0), rejected_rows([1], run.input), footer)
    assert look(run).first_fault is None
    assert repair(run.storage) == ["rejected/part-00000.parquet"]


def test_a_killed_run_with_damage_is_broken(killed):
    flip_in_page(killed)
    assert "metrics/part-00001.parquet: row group 1" in look(killed).first_fault


def go_on(storage: LocalStorage) -> list[str]:
    return tidy(storage, "metrics")


@pytest.mark.parametrize("remove", [repair, go_on])
def test_what_a_crash_left_is_removed_and_nothing_else(killed, remove):
    mine = ["notes.tmp", "metrics/notes.tmp", "metrics/part-1.parquet.tmp", "mine/x.parquet"]
    (killed.path / "mine").mkdir()
    for name in mine:
        (killed.path / name).write_text("mine")
    pq.write_table(rejected_rows([1], killed.input), killed.path / "mine/part-00002.parquet")
    (killed.path / "manifest.json.tmp").write_text("{")
    before = killed.files()
    removed = remove(killed.storage)
    assert removed == [
        "manifest.json.tmp",
        "metrics/part-00002.parquet.tmp",
        "rejected/part-00002.parquet",
    ]
    after = killed.files()
    after.pop(".lock", None)
    assert after == {name: data for name, data in before.items() if name not in removed}
    assert look(killed).leftovers.detail == "nothing"
    assert repair(killed.storage) == []


def test_parts_that_no_crash_explains_are_kept_as_evidence(killed, tmp_path):
    killed.drop("metrics", 1)
    assert "rejected/part-00002.parquet" in look(killed).leftovers.first
    assert "rejected/part-00001.parquet" not in look(killed).leftovers.first
    before = set(killed.files())
    assert repair(killed.storage) == [
        "metrics/part-00002.parquet.tmp",
        "rejected/part-00001.parquet",
    ]
    assert before - set(killed.files()) == {
        "metrics/part-00002.parquet.tmp",
        "rejected/part-00001.parquet",
    }


def test_a_part_that_does_not_follow_the_last_commit_is_kept_as_evidence(killed):
    killed.footer("rejected", 2, first_row=9)
    assert "rejected/part-00002.parquet is beyond" in look(killed).leftovers.first
    assert repair(killed.storage) == ["metrics/part-00002.parquet.tmp"]


def test_repair_takes_nothing_from_a_run_that_ended_in_order(run):
    for status in ("finished", "stopped"):
        run.manifest(status=status, cause=None)
        run.part("metrics", 2).unlink(missing_ok=True)
        run.part("metrics", 1).unlink(missing_ok=True)
        assert repair(run.storage) == []
        assert "rejected/part-00001.parquet is beyond" in look(run).leftovers.first


def test_a_run_that_could_not_be_stopped_in_order_is_taken_for_one_that_crashed(killed):
    killed.manifest(status="stopped", cause="DiskFull: no room")
    assert look(killed).first_fault is None
    assert "rejected/part-00002.parquet" in repair(killed.storage)


def hold_lock(run: MadeRun) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_run_that_is_being_written_is_left_alone(killed):
    with hold_lock(killed) as holder:
        before = killed.files()
        with pytest.raises(UsageError, match="being written by another process"):
            repair(killed.storage)
        report = look(killed)
        assert report.first_fault is None
        assert report.leftovers.state == "not checked"
        assert "being written" in report.verdict
        assert killed.files() == before
        holder.kill()
    assert "a crash left" in look(killed).leftovers.found
    assert len(repair(killed.storage)) == 2


def test_a_repair_that_cannot_write_says_so(killed, monkeypatch):
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(RunFault, match=r"repairing .* failed: .*Permission denied"):
        repair(killed.storage)
