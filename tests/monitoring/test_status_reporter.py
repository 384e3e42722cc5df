"""status.json: whole whenever it is read, true of a run in trouble, and never what holds one up."""

import dataclasses
import threading

import anyio
import orjson
import pytest
from rich.console import Console

from streamer.commands.watch import show_until_over
from streamer.computing.fault_isolation import FaultIsolation
from streamer.config import RunConfig
from streamer.errors import RunFault
from streamer.monitoring.status import StatusFile, read_status
from streamer.running.prepare import prepare
from streamer.running.run import run as run_prepared
from streamer.writing.storage.local import LocalStorage
from support.runs import run_with
from support.snapshots import NOW, status_file


def test_the_status_is_whole_whenever_it_is_read(tmp_path):
    file, is_over = status_file(tmp_path, "title"), threading.Event()
    file.write("running", NOW)

    def keep_writing() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            file.write("running", dataclasses.replace(NOW, done=number, note="x" * (number % 5000)))

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        seen = set()
        # Not so many reads: on a busy machine most of them see what the one before them saw.
        while len(seen) < 100 and writer.is_alive():
            status = orjson.loads((tmp_path / "status.json").read_bytes())
            assert len(status["note"] or "") == status["done"] % 5000 or status["done"] == 80
            seen.add(status["done"])
    finally:
        is_over.set()
        writer.join()
    assert len(seen) == 100


def test_on_a_full_disk_the_status_still_tells_so(small_disk):
    file = status_file(small_disk, "title")
    file.write("running", NOW)
    with pytest.raises(OSError, match="No space left"), (small_disk / "fill").open("wb") as fill:
        while True:
            fill.write(bytes(4096))
            fill.flush()
    waiting = dataclasses.replace(NOW, note="disk full: waiting")
    file.write("paused", waiting)
    sign, now = read_status(LocalStorage(small_disk))
    assert (sign.status, now) == ("paused", waiting)
    file.write("running", NOW)
    assert read_status(LocalStorage(small_disk))[1] == NOW
    (small_disk / "fill").unlink()
    assert not (small_disk / "status.json.tmp").exists()


def test_a_status_that_cannot_be_written_hurts_no_run(tmp_path):
    (tmp_path / "status.json").mkdir()
    status_file(tmp_path, "title").write("running", NOW)
    status_file(tmp_path / "gone", "title").write("running", NOW)


def test_names_that_are_not_unicode_are_told_as_far_as_they_are(tmp_path):
    status_file(tmp_path, "model \udcff").write("failed", NOW, "cannot read \udcff.jsonl")
    sign, now = read_status(LocalStorage(tmp_path))
    assert sign.title == r"model \udcff"
    assert now.note == r"cannot read \udcff.jsonl"


def test_the_status_of_a_run_that_failed_has_the_cause(tmp_path, embedded_worker, monkeypatch):
    def broken(*_):
        raise ValueError("a stage broke")

    monkeypatch.setattr(FaultIsolation, "feed", broken)
    with pytest.raises(RunFault):
        run_with(embedded_worker("contrast"), out=tmp_path / "RUN")
    sign, now = read_status(LocalStorage(tmp_path / "RUN"))
    assert sign.status == "failed"
    assert now.note == "ValueError: a stage broke"
    console = Console(record=True, width=200, file=(tmp_path / "out").open("w"))
    assert show_until_over(tmp_path / "RUN", once=False, console=console) == 1
    assert "a stage broke" in console.export_text()


def test_present_trouble_is_in_the_status(tmp_path, embedded_worker, monkeypatch):
    written = []
    monkeypatch.setattr(StatusFile, "write", lambda _, *what: written.append(what))
    prepared = prepare(RunConfig(out=tmp_path / "RUN", limit=20, progress="none"))
    prepared.counters.waiting_for = "disk full: waiting"
    anyio.run(run_prepared, prepared, embedded_worker("contrast"))
    state, now = written[0]
    assert (state, now.note) == ("paused", "disk full: waiting")


def test_a_disk_that_hangs_over_the_status_does_not_hold_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("streamer.running.session.CLOSE_SECONDS", 0.1)
    go_on, written, write = threading.Event(), [], StatusFile.write

    def hang(self, state, *rest):
        go_on.wait(10)
        write(self, state, *rest)
        written.append(state)

    monkeypatch.setattr(StatusFile, "write", hang)
    run, _ = run_with(None, out=tmp_path / "RUN", limit=3)
    assert run.manifest["status"] == "finished"
    assert not written
    go_on.set()
