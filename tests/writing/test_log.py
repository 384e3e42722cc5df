"""The run's log: it rotates, never ends a run, and has the reason of what did not go smoothly."""

import json
import os
import pty
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamer.batches import Result, Window, Work
from streamer.monitoring.incidents import LOGGED, Incidents
from streamer.monitoring.library_warnings import LibraryWarnings
from streamer.monitoring.stderr_capture import TURN_BYTES, StderrCapture
from streamer.records import Origin, Rejection
from streamer.writing.event_log import EventLog
from support.processes import Popen
from support.runs import run_with

GOOD = '{"prompt": "The sky is", "fact": "blue", "hallucination": "green"}\n'


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def events(run: Path, event: str) -> list[dict[str, Any]]:
    return [line for line in lines(run / "log.jsonl") if line["event"] == event]


def opened(path: Path) -> EventLog:
    log = EventLog()
    log.open(path)
    return log


def test_events_before_there_is_a_file_are_held_with_their_times(tmp_path):
    log = EventLog()
    log.write("early", {"n": 1})
    threading.Thread(target=log.write, args=("early", {"n": 2})).run()
    time.sleep(0.01)
    log.open(tmp_path / "log.jsonl")
    log.write("late")
    log.close()
    log.write("after the end")
    first, second, late = lines(tmp_path / "log.jsonl")
    assert [first["n"], second["n"], late["event"]] == [1, 2, "late"]
    assert second["time"] < late["time"]


def test_a_full_log_is_rotated_and_the_newest_files_are_kept(tmp_path):
    log = EventLog(file_bytes=5000, old_files=3)
    log.open(tmp_path / "log.jsonl")
    threads = [
        threading.Thread(target=lambda: [log.write("e", {"n": n}) for n in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.write("last")
    log.close()
    names = ["log.jsonl.3", "log.jsonl.2", "log.jsonl.1", "log.jsonl"]
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert all(path.stat().st_size <= 5000 for path in tmp_path.iterdir())
    kept = [line for name in names for line in lines(tmp_path / name)]
    assert kept[-1]["event"] == "last"
    assert [line["time"] for line in kept] == sorted(line["time"] for line in kept)
    assert len(kept) > 200


def test_a_resumed_run_appends_and_half_a_line_is_cut_off(tmp_path):
    path = tmp_path / "log.jsonl"
    for session in range(3):
        log = opened(path)
        log.write("started", {"session": session})
        log.close()
        with path.open("a") as file:
            file.write('{"time": "20')
    opened(path).close()
    assert [line["session"] for line in lines(path)] == [0, 1, 2]


def test_a_log_on_a_full_disk_goes_on_when_there_is_room(small_disk):
    log = opened(small_disk / "log.jsonl")
    (small_disk / "fill").write_bytes(bytes(40_000))
    for number in range(1000):
        log.write("full", {"number": number})
    (small_disk / "fill").unlink()
    log.write("room")
    log.close()
    *told, last = lines(small_disk / "log.jsonl")
    assert last["event"] == "room"
    numbers = [line["number"] for line in told]
    assert numbers == list(range(len(numbers)))
    assert 50 < len(numbers) < 1000


def test_what_json_does_not_take_is_told_all_the_same(tmp_path):
    log = opened(tmp_path / "log.jsonl")
    log.write("odd", {"path": Path("x"), "name": "\udcff", "n": float("nan"), 3: {4}})
    log.write("fine", {"path": Path("x"), 3: 4})
    log.close()
    log.write("late")
    odd, fine = lines(tmp_path / "log.jsonl")
    assert r"\udcff" in odd["entries"]
    assert (fine["path"], fine["3"]) == ("x", 4)


def rejected(reason: str, *rows: int) -> Result:
    rejections = tuple(
        Rejection(Origin(row, "in.jsonl", row, 10 * row, 10 * row + 9), reason, b"", 9)
        for row in rows
    )
    return Result(Window(0, 1), (), np.empty((0, 1)), rejections, Work())


def test_ten_million_rejections_take_a_few_lines():
    told = []
    incidents = Incidents(lambda event, entries: told.append((event, entries)))
    for row in range(500):
        incidents.take(rejected(f"no JSON: at {row}", 2 * row, 2 * row + 1))
    incidents.take(rejected("empty", 1000))
    assert Counter(event for event, _ in told) == {"rejected": LOGGED + 1}
    first = {"reason": "no JSON: at 0", "row": 1, "source": "in.jsonl", "position": 1, "offset": 10}
    assert told[1] == ("rejected", first)
    incidents.summarize()
    incidents.summarize()
    assert told[LOGGED + 1 :] == [("rejected more", {"reasons": {"no JSON": 1000 - LOGGED}})]


def test_a_run_logs_its_rejections_and_counts_those_beyond_the_first(tmp_path):
    (tmp_path / "in.jsonl").write_text("rubbish\n" * 50 + GOOD + "{}\n")
    run, summary = run_with(None, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN")
    told = events(run.path, "rejected")
    assert len(told) == LOGGED + 1
    (more,) = events(run.path, "rejected more")
    assert sum(more["reasons"].values()) + len(told) == summary.counters.written.rejected == 51
    assert told[-1]["row"] == 51
    reasons = run.table("rejected")["reason"].to_pylist()
    assert [line["reason"] for line in told] == [*reasons[:LOGGED], reasons[-1]]


def test_splits_and_runs_again_are_logged_with_their_reason(tmp_path, embedded_worker, monkeypatch):
    worker, spoilt = embedded_worker("contrast"), []
    residuals = worker.model.residuals

    def run(rows, on_device=None):
        if rows.size > 400:
            raise torch.OutOfMemoryError("CUDA out of memory")
        found = residuals(rows)
        if not spoilt:
            spoilt.append(True)
            found[:, 0] = torch.nan
        return found

    monkeypatch.setattr(worker.model, "residuals", run)
    ran, summary = run_with(worker, out=tmp_path / "RUN", limit=40, max_tokens=2000)
    splits = events(ran.path, "split")
    assert summary.counters.session.out_of_memory_splits >= len(splits) > 0
    assert {line["cause"] for line in splits} == {"out of memory"}
    assert sum(line["records"] for line in splits) <= 40
    (again,) = events(ran.path, "run again in float32")
    assert again["reason"] == "the residual is not finite"
    assert again["passages"] == summary.counters.session.reruns_in_float32 == 1


def test_plain_warnings_of_any_thread_go_to_the_log():
    told = []
    with (
        LibraryWarnings(lambda _, entries: told.append(entries["message"])),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("always")
        thread = threading.Thread(target=lambda: warnings.warn("in a thread", stacklevel=1))
        thread.start()
        thread.join()
    assert "in a thread" in told[0]


def test_what_is_written_to_standard_error_is_told_line_by_line(tmp_path, capfd):
    told = []
    chatter = StderrCapture(
        tmp_path, lambda event, entries: told.append((event, entries["message"]))
    )
    chatter.log_new()
    with chatter.redirected():
        os.write(2, b"one\n\ntw")
        chatter.log_new()
        assert told == [("stderr", "one")]
        os.write(2, b"o\n")
        subprocess.run(["sh", "-c", "echo a child >&2"], check=True)
        chatter.log_new()
        for _ in range(3):
            os.write(2, b"x" * TURN_BYTES)
            chatter.log_new()
        assert (tmp_path / "stderr.log").stat().st_size <= TURN_BYTES
        os.write(2, b"no end")
    chatter.end()
    assert [text for _, text in told[:3]] == ["one", "two", "a child"]
    assert told[-1][1].endswith("no end")
    assert list(tmp_path.iterdir()) == []
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


CHATTERING = """
import os, threading, time
from streamer.commands.cli import main

def chatter():
    while not os.path.exists("RUN/status.json"):
        time.sleep(0.01)
    time.sleep(0.5)
    os.write(2, b"[W] what a library in C has to say\\n")

threading.Thread(target=chatter, daemon=True).start()
main(["run", "-", "--out", "RUN"])
"""


def test_no_library_writes_over_the_live_display(tmp_path):
    main, terminal = pty.openpty()
    process = Popen(
        [sys.executable, "-c", CHATTERING],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(terminal)
    assert process.stdin
    process.stdin.write(GOOD.encode())
    process.stdin.flush()
    shown, log = b"", tmp_path / "RUN" / "log.jsonl"
    while True:
        try:
            shown += os.read(main, 65536)
        except OSError:  # what a terminal says when the other side is closed
            break
        if not process.stdin.closed and log.exists() and events(log.parent, "stderr"):
            process.stdin.close()
    assert process.wait(60) == 0
    assert b"holds the others back" in shown
    assert b"what a library" not in shown
    (told,) = events(log.parent, "stderr")
    assert told["message"] == "[W] what a library in C has to say"
    assert not (log.parent / "stderr.log").exists()
