"""A terminal or pipe that is not read, or not there, holds up and ends no run."""

import contextlib
import fcntl
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from rich.console import Console

import streamer
from streamer.config import RunConfig
from streamer.monitoring import screen
from streamer.monitoring.display import progress_on
from streamer.monitoring.progress import SILENT
from streamer.monitoring.screen import Screen
from streamer.running.prepare import prepare
from streamer.running.run import run as run_prepared
from streamer.running.signals import stop_on_signal
from support.processes import COMMAND, GOOD, Popen

SLOW = ["--deterministic", "--window", "4096", "--batch-size", "1"]
"""What is in flight takes as long as it may."""


def full_pipe() -> tuple[int, int]:
    """Both ends of a pipe in which there is no room for another byte."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(into, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(into, b"x")
    os.set_blocking(into, True)
    return out, into


def wait_for_status(process: subprocess.Popen, run: Path, wanted: Callable[[dict], bool]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None
        with contextlib.suppress(FileNotFoundError):
            if wanted(json.loads((run / "status.json").read_bytes())):
                return
        time.sleep(0.1)
    raise AssertionError("it does not get on")


def wait_until_full(terminal: int) -> None:
    """Until frames have left no room for more."""
    deadline = time.monotonic() + 120
    while select.select([], [terminal], [], 0)[1]:
        assert time.monotonic() < deadline, "the terminal takes all that is written to it"
        time.sleep(0.1)


def wait_for_records(process: subprocess.Popen, run: Path, records: int) -> None:
    wait_for_status(process, run, lambda status: status["done"] >= records)


def wait_for_state(process: subprocess.Popen, run: Path, state: str) -> None:
    wait_for_status(process, run, lambda status: status["status"] == state)


def test_a_pipe_that_nobody_drains_holds_up_no_run(tmp_path):
    out, into = full_pipe()
    process = Popen([*COMMAND, "run", "--out", "RUN"], cwd=tmp_path, stdout=into)
    try:
        assert process.wait(90) == 0
    finally:
        process.kill()
        os.close(out)
        os.close(into)
    run = streamer.open_run(tmp_path / "RUN")
    assert run.manifest["status"] == "finished"
    assert run.table("metrics").num_rows == 200


def test_a_stopped_terminal_holds_up_neither_a_run_nor_its_signals(tmp_path):
    """As after Ctrl-S: the terminal takes some kilobytes and no more."""
    main, terminal = pty.openpty()
    process = Popen(
        [*COMMAND, "run", "-", "--out", "RUN"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    assert process.stdin
    try:
        for records in (5, 10):
            process.stdin.write(GOOD.encode() * 5)
            process.stdin.flush()
            wait_for_records(process, tmp_path / "RUN", records)
            wait_until_full(terminal)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143
    finally:
        process.kill()
        os.close(main)
        os.close(terminal)
    run = streamer.open_run(tmp_path / "RUN")
    assert run.manifest["status"] == "stopped"
    assert run.table("metrics")["row"].to_pylist() == list(range(10))


class Gone(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(5, "Input/output error")


def test_notes_on_a_terminal_that_is_gone_end_no_run(tmp_path, embedded_worker, monkeypatch):
    worker = embedded_worker("contrast")
    monkeypatch.setattr(worker.model, "notes", ["something to know"])
    with Screen(Console(file=Gone()), "lines") as gone:
        config = RunConfig(out=tmp_path / "RUN", limit=3)
        prepared = prepare(config, progress=progress_on(gone))
        anyio.run(run_prepared, prepared, worker)
    assert streamer.open_run(tmp_path / "RUN").manifest["status"] == "finished"


def test_what_is_said_comes_in_order_and_frames_are_left_out_while_one_hangs(monkeypatch):
    monkeypatch.setattr(screen, "LAST_SECONDS", 0.2)
    out, into = full_pipe()
    with os.fdopen(into, "w") as file, os.fdopen(out) as reader:
        with Screen(Console(file=file), "lines") as hanging:
            hanging.print("line 0")
            while not hanging._jobs.empty():  # else those behind it are left out until it is taken
                time.sleep(0.001)
            for number in range(1, 1000):
                hanging.print(f"line {number}")
            assert not hanging.is_idle
        os.read(reader.fileno(), 4096)
        said = b""
        while f"line {screen.WAITING - 1}\n".encode() not in said:
            said += os.read(reader.fileno(), 4096)
    lines = said.decode().splitlines()
    assert lines == [f"line {number}" for number in range(len(lines))]
    assert len(lines) < 1000
    hanging._thread.join(30)
    assert not hanging._thread.is_alive()


def test_signals_are_as_they_were_once_a_run_is_over(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

        async def main() -> None:
            handlers = [signal.getsignal(number) for number in numbers]
            stopped: list[int] = []
            with stop_on_signal(lambda: None, stopped, SILENT):
                os.kill(os.getpid(), signal.SIGHUP)
                os.kill(os.getpid(), signal.SIGTERM)
                await anyio.sleep(0.1)
            assert stopped == [signal.SIGTERM]
            assert [signal.getsignal(number) for number in numbers] == handlers

        anyio.run(main)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_a_signal_while_the_model_is_loaded_ends_the_process_at_once(tmp_path, number, seconds):
    process = subprocess.Popen(
        [*COMMAND, "run", "--out", "RUN"], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    while not process.stdout.readline().startswith("Loading"):
        assert process.poll() is None
    time.sleep(seconds)  # torch is being imported
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, "stopped\n")
    assert not (tmp_path / "RUN").exists()


SUMMING = """
import sys, time
from pathlib import Path
import streamer.monitoring.screen
import streamer.results.summary
from streamer.commands.cli import main

def print_summary(*_):
    Path("summing").touch()
    time.sleep(60)

streamer.monitoring.screen.LAST_SECONDS = 60
streamer.results.summary.print_summary = print_summary
main(["run", "--out", "RUN", "--limit", "3"])
"""


def test_a_signal_during_the_summary_does_not_unmake_a_finished_run(tmp_path):
    process = Popen(
        [sys.executable, "-c", SUMMING], cwd=tmp_path, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "summing").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_is_heard_though_nothing_can_be_printed(tmp_path, number):
    (tmp_path / "in.jsonl").write_text(GOOD * 5000)
    out, into = full_pipe()
    process = Popen(
        [*COMMAND, "run", "in.jsonl", "--out", "RUN", "--progress", "rich", *SLOW],
        cwd=tmp_path,
        stdout=into,
    )
    try:
        wait_for_records(process, tmp_path / "RUN", 1)
        process.send_signal(number)
        wait_for_state(process, tmp_path / "RUN", "stopping")
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    finally:
        process.kill()
        os.close(out)
        os.close(into)
    assert streamer.open_run(tmp_path / "RUN").manifest["status"] == "running"  # dropped at once
