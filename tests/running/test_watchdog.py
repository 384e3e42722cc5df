"""A stage that hangs is found out, told with every thread's stack, and the run ends; waiting is no
hanging."""

import gc
import json
import os
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import streamer.concurrency.threads
from streamer.computing.fault_isolation import FaultIsolation
from streamer.concurrency.threads import a_thread_hangs
from streamer.errors import RunFault, UsageError
from streamer.loading.loader import Loader
from streamer.monitoring.counters import STAGES, Counters
from streamer.monitoring.incidents import Incidents
from streamer.planning.planner import Planner
from streamer.results.run import open_run
from streamer.running import watchdog
from streamer.writing.directory import RunDirectory
from streamer.writing.writer import Writer
from support.instant import Instant, many
from support.processes import GOOD, run_python
from support.runs import run_with

PLACES = {
    "load": (Loader, "next_chunk"),
    "plan": (Planner, "_first_batch"),
    "compute": (FaultIsolation, "feed"),
    "write": (Writer, "add"),
}


@pytest.fixture
def worker(embedded_worker) -> Instant:
    return Instant(embedded_worker("contrast"))


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What the stage hangs in, which ends with the test."""
    event = threading.Event()
    yield event
    event.set()
    ends = time.monotonic() + 10
    while a_thread_hangs() and time.monotonic() < ends:
        time.sleep(0.01)


def hang(stage: str, after: int, released: threading.Event, monkeypatch: Any) -> None:
    """Let `stage` hang at its next call but `after`."""
    owner, name = PLACES[stage]
    original, calls = getattr(owner, name), iter(range(10**6))

    def call(*arguments: Any, **settings: Any) -> Any:
        if next(calls) == after:
            released.wait(60)
        return original(*arguments, **settings)

    monkeypatch.setattr(owner, name, call)


def logged(path: Path, event: str) -> dict[str, Any]:
    lines = map(json.loads, (path / "log.jsonl").read_text().splitlines())
    return next(line for line in lines if line["event"] == event)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_hangs_ends_the_run_and_its_stack_is_in_the_log(
    tmp_path, worker, monkeypatch, released, stage
):
    hang(stage, 12, released, monkeypatch)
    began = time.monotonic()
    with pytest.raises(RunFault, match=f"stands still: stage {stage} made no progress for 2 s"):
        run_with(
            worker,
            paths=[many(tmp_path, 2000)],
            out=tmp_path / "RUN",
            stall_seconds=2,
            window=64,
            batch_size=64,
            part_rows=64,
        )
    assert time.monotonic() - began < 40
    found = logged(tmp_path / "RUN", "stalled")
    assert found["stages"] == [stage]
    (stack,) = (
        one for name, one in found["stacks"].items() if name.startswith(f"streamer {stage}")
    )
    assert "released.wait(60)" in stack
    assert any(name.startswith("MainThread") for name in found["stacks"])
    run = open_run(tmp_path / "RUN")
    assert run.manifest["status"] == "failed"
    assert "stands still" in run.manifest["cause"]
    rows = run.table("metrics")["row"].to_pylist()
    assert rows == list(range(len(rows)))
    if stage != "write":
        assert not list(tmp_path.glob("RUN/*/*.tmp"))


def test_stages_that_wait_for_the_one_that_hangs_are_left_as_well(
    tmp_path, worker, monkeypatch, released
):
    """Without overlap, all wait for the turn that it holds."""
    monkeypatch.setattr(streamer.concurrency.threads, "GRACE_SECONDS", 0.3)
    hang("compute", 1, released, monkeypatch)
    began = time.monotonic()
    with pytest.raises(RunFault, match="stage compute made no progress"):
        run_with(
            worker,
            paths=[many(tmp_path, 2000)],
            out=tmp_path / "RUN",
            stall_seconds=0.5,
            window=64,
            batch_size=64,
            overlap=False,
        )
    assert time.monotonic() - began < 20


def test_a_pipe_in_which_nothing_comes_is_no_standstill(tmp_path, worker):
    pipe = tmp_path / "in.jsonl"
    os.mkfifo(pipe)

    def feed() -> None:
        with pipe.open("w") as file:
            for _ in range(2):
                file.write(GOOD)
                file.flush()
                time.sleep(1.5)

    feeder = threading.Thread(target=feed)
    feeder.start()
    run, _ = run_with(worker, paths=[str(pipe)], out=tmp_path / "RUN", stall_seconds=0.5)
    feeder.join()
    assert run.table("metrics").num_rows == 2


def test_a_stage_that_says_it_is_well_may_take_its_time(tmp_path, worker, monkeypatch):
    """As one does that waits for room on the disk."""
    add, beats = Writer.add, []
    busy = Counters.busy

    def slow(self, result):
        for _ in range(10):
            time.sleep(0.1)
            beats[0].beat("write")
        return add(self, result)

    def remember(self, stage):
        beats.append(self)
        return busy(self, stage)

    monkeypatch.setattr(Writer, "add", slow)
    monkeypatch.setattr(Counters, "busy", remember)
    run, _ = run_with(worker, paths=[many(tmp_path, 10)], out=tmp_path / "RUN", stall_seconds=0.5)
    assert run.table("metrics").num_rows == 10


def test_a_batch_that_is_split_shows_progress_with_every_part(embedded_worker, monkeypatch):
    worker, beats = embedded_worker("contrast"), []
    residuals = worker.model.residuals

    def run(rows, on_device=None):
        if rows.size > 10:
            raise MemoryError
        return residuals(rows)

    monkeypatch.setattr(worker.model, "residuals", run)
    from streamer.batches import Window
    from support.measured import record

    computing = FaultIsolation(worker, on_progress=lambda: beats.append(1))
    computing.process(worker.batch(Window(0, 4), [record(row, 2, 2, 2) for row in range(4)]))
    assert len(beats) == 7


def test_a_log_that_hangs_over_an_incident_is_found_out(tmp_path, worker, monkeypatch, released):
    monkeypatch.setattr(Incidents, "take", lambda *_: released.wait(60))
    with pytest.raises(RunFault, match="stage compute made no progress"):
        run_with(worker, paths=[many(tmp_path, 10)], out=tmp_path / "RUN", stall_seconds=0.5)


def test_a_directory_that_hangs_while_it_is_closed_ends_the_run(
    tmp_path, worker, monkeypatch, released
):
    monkeypatch.setattr(streamer.concurrency.threads, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr("streamer.running.shutdown.UNHURRIED_SECONDS", 0.5)
    monkeypatch.setattr(RunDirectory, "close", lambda *_, **__: released.wait(60))
    began = time.monotonic()
    with pytest.raises(RunFault, match=r"no progress for 0\.5 s"):
        run_with(worker, paths=[many(tmp_path, 10)], out=tmp_path / "RUN", stall_seconds=0.5)
    assert time.monotonic() - began < 20


def test_the_lock_is_kept_as_long_as_a_thread_may_write(tmp_path, worker, monkeypatch, released):
    hang("write", 1, released, monkeypatch)
    settings = {"window": 16, "batch_size": 16, "paths": [many(tmp_path, 100)]}
    with pytest.raises(RunFault, match="stage write made no progress"):
        run_with(worker, out=tmp_path / "RUN", stall_seconds=0.5, **settings)
    gc.collect()
    with pytest.raises(UsageError, match="another process is writing"):
        run_with(worker, out=tmp_path / "RUN", **settings)
    released.set()
    deadline = time.monotonic() + 30
    while a_thread_hangs() and time.monotonic() < deadline:
        time.sleep(0.01)
    gc.collect()
    run, _ = run_with(worker, out=tmp_path / "RUN", **settings)
    assert run.table("metrics").num_rows == 100


async def _watch(counters: Counters, seconds: float) -> tuple[list[Any], str]:
    seen: list[Any] = []
    with pytest.raises(RunFault) as raised, anyio.fail_after(10):
        await watchdog.watch(counters, seconds, lambda *entry: seen.append(entry), seen.append)
    return seen, str(raised.value)


def test_stages_that_all_wait_for_each_other_stand_still():
    began = time.monotonic()
    seen, text = anyio.run(_watch, Counters(), 0.4)
    assert "all stages wait for each other" in text
    assert seen[1] == []
    assert 0.3 < time.monotonic() - began < 5


def test_waiting_for_room_is_no_standstill():
    counters = Counters(waiting_for="disk full: waiting")
    began = time.monotonic()
    threading.Timer(1.5, setattr, (counters, "waiting_for", None)).start()
    anyio.run(_watch, counters, 0.4)
    assert time.monotonic() - began > 1.5


def test_time_in_which_the_process_was_suspended_does_not_count(monkeypatch):
    """Ctrl-Z, and fg after lunch."""
    jumps = iter(range(0, 10**6, 1000))
    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + next(jumps))
    monkeypatch.setattr(watchdog, "time", clock)
    began = time.monotonic()
    anyio.run(_watch, Counters(), 1.0)
    assert time.monotonic() - began > 0.4  # each look counts for as long as two at most


COMMAND = """
import sys, threading
from streamer.computing.fault_isolation import FaultIsolation
from streamer.commands.cli import main

def hang_here(self, batch):
    threading.Event().wait()

FaultIsolation.feed = hang_here
main(sys.argv[1:])
"""


def test_the_command_leaves_though_a_thread_hangs(tmp_path):
    command = ["-c", COMMAND, "run", "--out", "RUN", "--stall-seconds", "1"]
    done = run_python(*command, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: the run stands still: stage compute made no progress for 1 s")
    assert "hang_here" in str(logged(tmp_path / "RUN", "stalled")["stacks"])
    assert json.loads((tmp_path / "RUN" / "manifest.json").read_text())["status"] == "failed"
