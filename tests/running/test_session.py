"""What a session of a run says of itself before its first record, and where it is written."""

import errno
import fcntl
import json
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from streamer.config import RunConfig
from streamer.errors import RunFault, UsageError
from streamer.monitoring.status import read_status
from streamer.results.run import open_run
from streamer.running import run as execution
from streamer.running.prepare import prepare
from streamer.writing.directory import RunDirectory
from streamer.writing.event_log import EventLog
from streamer.writing.storage import new_folder
from streamer.writing.storage.local import LocalStorage
from support.runs import run_with


def fail(*_: Any, **__: Any) -> None:
    raise RunFault("the disk is broken")


@pytest.mark.parametrize("step", ["tidy", "Writer"])
def test_a_run_that_breaks_off_before_its_first_record_says_why(tmp_path, monkeypatch, step):
    monkeypatch.setattr(f"streamer.running.session.{step}", fail)
    with pytest.raises(RunFault, match="the disk is broken"):
        run_with(None, out=tmp_path / "RUN", limit=3)
    manifest = open_run(tmp_path / "RUN").manifest
    assert (manifest["status"], manifest["cause"]) == ("failed", "RunFault: the disk is broken")
    last = json.loads((tmp_path / "RUN" / "log.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "failed"
    sign, now = read_status(LocalStorage(tmp_path / "RUN"))
    assert (sign.status, now.note) == ("failed", "RunFault: the disk is broken")
    monkeypatch.undo()
    run, _ = run_with(None, out=tmp_path / "RUN", limit=3)
    assert run.manifest["status"] == "finished"


@pytest.fixture
def begun(tmp_path, monkeypatch) -> Path:
    """A run that broke off."""
    with monkeypatch.context() as patches, pytest.raises(RunFault):
        patches.setattr("streamer.running.session.stream", fail)
        run_with(None, out=tmp_path / "RUN", limit=3)
    return tmp_path / "RUN"


def go_on(run: Path) -> None:
    prepared = prepare(RunConfig(out=run, limit=3, progress="none"))
    anyio.run(execution.run, prepared)


def test_a_deterministic_run_that_may_not_fit_any_more_tells_so(tmp_path, monkeypatch):
    settings = {"out": tmp_path / "RUN", "limit": 3, "deterministic": True}
    with monkeypatch.context() as patches, pytest.raises(RunFault):
        patches.setattr("streamer.running.session.stream", fail)
        run_with(None, **settings)
    monkeypatch.setattr("streamer.computing.starting_budget.free_memory", lambda _: 1_000_000)
    with pytest.raises(UsageError, match=r"1 MB|9\d\d KB"):
        anyio.run(execution.run, prepare(RunConfig(**settings, progress="none")))
    sign, now = read_status(LocalStorage(tmp_path / "RUN"))
    assert sign.status == "failed"
    assert now.note is not None and "do not depend on how much memory is free" in now.note


def test_a_run_that_goes_on_tells_that_its_model_is_loaded(begun, monkeypatch, embedded_worker):
    def load(*_: Any, **__: Any) -> Any:
        deadline = time.monotonic() + 10
        while read_status(LocalStorage(begun))[0].status != "loading":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return embedded_worker("contrast")

    monkeypatch.setattr("streamer.running.load.load_worker", load)
    go_on(begun)
    assert read_status(LocalStorage(begun))[0].status == "finished"


def test_a_run_whose_model_is_gone_tells_so(begun, monkeypatch):
    def load(*_: Any, **__: Any) -> Any:
        raise UsageError("no model there")

    before = open_run(begun).manifest
    monkeypatch.setattr("streamer.running.load.load_worker", load)
    with pytest.raises(UsageError, match="no model there"):
        go_on(begun)
    sign, now = read_status(LocalStorage(begun))
    assert (sign.status, now.note) == ("failed", "no model there")
    assert open_run(begun).manifest == before


def test_directories_that_are_made_are_on_the_disk(tmp_path, monkeypatch):
    synced: list[Path] = []
    monkeypatch.setattr(new_folder, "fsync", synced.append)
    RunDirectory.make(LocalStorage(tmp_path / "runs" / "RUN"), EventLog()).leave()
    assert set(synced) == {tmp_path, tmp_path / "runs"}


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UsageError, match=r"its file system has no locks .*Choose a directory on"):
        RunDirectory.make(LocalStorage(tmp_path / "RUN"), EventLog())
