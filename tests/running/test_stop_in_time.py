"""A run that is stopped ends in time and in order, whatever hangs."""

import signal
import subprocess
import sys
import time

import pytest

from streamer.monitoring import screen
from streamer.results.run import open_run
from streamer.running.shutdown import CLOSE_SECONDS, GIVE_UP_SECONDS, LOOK_SECONDS
from support.processes import GOOD, Popen
from support.runs import run_with

RECORDS, WINDOW, ROWS = 400, 16, 32
SETTINGS = {"window": WINDOW, "batch_size": WINDOW, "deterministic": True}
HANGING = """
import sys, threading, time
from pathlib import Path
import streamer.running.shutdown
from streamer.commands.cli import main
from {module} import {owner}

original, calls = {owner}.{name}, iter(range(10**9))

def hang_here(*arguments, **settings):
    if next(calls) >= {after}:
        Path("hangs").touch()
        threading.Event().wait()
    return original(*arguments, **settings)

{owner}.{name} = hang_here
streamer.running.shutdown.DROP_SECONDS, streamer.running.shutdown.GIVE_UP_SECONDS = 2.0, 8.0
main(["run", "in.jsonl", "--out", "RUN", "--deterministic",
      "--window", "{window}", "--batch-size", "{window}", "--part-rows", "{rows}"])
"""
PLACES = {
    "load": ("streamer.loading.loader", "Loader", "next_chunk", 2),
    "plan": ("streamer.planning.planner", "Planner", "_first_batch", 4),
    "compute": ("streamer.computing.fault_isolation", "FaultIsolation", "feed", 4),
    "write": ("streamer.writing.writer", "Writer", "add", 4),
    "log": ("streamer.writing.event_log", "LogFile", "emit", 2),
    "close": ("streamer.writing.directory", "RunDirectory", "close", 0),
}


def test_it_is_over_within_half_a_minute():
    """Though disk and terminal hang: the last status, letting go twice, and two screens."""
    waits = LOOK_SECONDS + GIVE_UP_SECONDS + 3 * CLOSE_SECONDS + 2 * screen.LAST_SECONDS
    assert waits <= 30


@pytest.mark.parametrize("place", PLACES)
def test_a_run_stops_in_time_whatever_hangs_and_goes_on_later(tmp_path, monkeypatch, place):
    module, owner, name, after = PLACES[place]
    (tmp_path / "in.jsonl").write_text(GOOD * RECORDS)
    code = HANGING.format(
        module=module, owner=owner, name=name, after=after, window=WINDOW, rows=ROWS
    )
    process = Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "hangs").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    try:
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143, errors
    monkeypatch.chdir(tmp_path)
    manifest = open_run("RUN").manifest
    rows = open_run("RUN").table("metrics")["row"].to_pylist()
    assert rows == list(range(len(rows)))
    if place in ("load", "plan", "compute"):
        assert errors == ""
        assert manifest["status"] == "stopped"
        assert "cause" not in manifest
        assert manifest["counts"]["records"] == len(rows)
        assert not list(tmp_path.glob("RUN/*/*.tmp"))
    else:  # nobody knows how far it came
        (line,) = errors.splitlines()
        assert line.startswith("error: stopped, but ")
        assert "cause" in manifest or manifest["status"] == "running"
    run, _ = run_with(None, paths=["in.jsonl"], out="RUN", **SETTINGS)
    assert run.manifest["status"] == "finished"
    assert run.table("metrics")["row"].to_pylist() == list(range(RECORDS))
