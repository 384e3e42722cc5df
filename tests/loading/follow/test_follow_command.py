"""The command behind a program that writes a log: rows as lines come, also after a stop."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import streamer
from support.following import add
from support.processes import COMMAND, Popen, run, wait_for_start


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def record(n: int) -> str:
    return json.dumps({"prompt": f"Number {n} is", "fact": "one", "hallucination": "two"}) + "\n"


def rows_of(path: Path) -> list[str]:
    """The ids of all rows in finished parts."""
    if not list(path.glob("metrics/part-*.parquet")):
        return []
    return streamer.open_run(path).table("metrics")["id"].to_pylist()


def test_the_command_sits_behind_another_program_and_goes_on_after_a_stop(tmp_path):
    path, out = tmp_path / "log.jsonl", tmp_path / "RUN"
    add(path, "".join(map(record, range(10))) + record(10)[:20])
    command = ["run", "log.jsonl", "--follow", "--out", "RUN", "--part-seconds", "0.5"]
    process = Popen([*COMMAND, *command], cwd=tmp_path)
    wait_for_start(process, tmp_path)
    until(lambda: len(rows_of(out)) == 10)
    add(path, record(10)[20:] + record(11))
    until(lambda: len(rows_of(out)) == 12)
    path.rename(tmp_path / "log.jsonl.1")
    add(path, record(12))
    until(lambda: len(rows_of(out)) == 13)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    add(path, record(13))
    process = Popen([*COMMAND, "resume", "RUN"], cwd=tmp_path)
    until(lambda: len(rows_of(out)) == 14)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert rows_of(out) == [f"log:{n}" for n in range(14)]
    refused = run(*command[:2], *command[3:], folder=tmp_path)
    assert "follow was True and is False" in refused.stderr
