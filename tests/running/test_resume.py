"""A run that was killed or stopped goes on where it was, and ends as if it had not been."""

import gzip
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pytest

import streamer
from streamer import UsageError
from streamer.embedded import RECORDS
from streamer.results.run import Run
from streamer.writing.directory import RunDirectory
from streamer.writing.event_log import EventLog
from streamer.writing.storage import new_folder
from streamer.writing.storage.local import LocalStorage
from support.processes import COMMAND, GOOD, Popen, run, run_with_kills, wait_for_start

COUNT = 1000
"""Records of a run that is stopped: several seconds' work, with batches of 8."""
EXACT = ("row", "id", "source", "domain", "prompt_tokens", "fact_tokens", "hall_tokens")


def records() -> list[str]:
    """The embedded ones, a line each."""
    files = [json.loads(path.read_text("utf-8")) for path in sorted(RECORDS.glob("*.json"))]
    return [json.dumps(record) for file in files for record in file]


def write_input(folder: Path, count: int) -> Path:
    """Good records, rubbish among them, as lines, as an array, and compressed."""
    known = records()
    lines = [
        "{}" if place % 37 == 5 else known[place % len(known)].replace("{", f'{{"n": {place}, ', 1)
        for place in range(count)
    ]
    third = count // 3
    folder = folder / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text("\n".join(lines[:third]) + "\nrubbish\n")
    (folder / "b.json").write_text("[" + ",\n".join(lines[third : 2 * third]) + "]")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[2 * third :]).encode()))
    return folder


def assert_same(one: Run, other: Run, *, exactly: bool) -> None:
    """Both have the same rows; to the bit, or but for the rounding of float64."""
    assert one.table("rejected").equals(other.table("rejected"))
    found, expected = one.table("metrics"), other.table("metrics")
    if exactly:
        assert found.equals(expected)
        return
    assert found.select(EXACT).equals(expected.select(EXACT))
    for name in set(found.column_names) - set(EXACT):
        column = found[name].to_pylist()
        if pa.types.is_floating(found.schema.field(name).type):
            assert column == pytest.approx(expected[name].to_pylist(), rel=1e-6, nan_ok=True), name
        else:
            assert column == expected[name].to_pylist(), name


@pytest.mark.parametrize("how", [["--deterministic"], ["--dtype", "float64"]])
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(how, tmp_path):
    write_input(tmp_path, 600)
    common = ["run", "in", *how, "--progress", "none", "--window", "16", "--part-seconds", "0.05"]
    assert run(*common, "--out", "WHOLE", folder=tmp_path).returncode == 0
    killed = run_with_kills(tmp_path, [*common, "--out", "RUN"], kills=4, seed=3, latest=1.0)
    resumed, whole = (streamer.open_run(tmp_path / name) for name in ("RUN", "WHOLE"))
    assert killed >= 2
    assert len(resumed.manifest["earlier_sessions"]) == killed
    assert len(resumed.parts("metrics")) > 3
    assert_same(resumed, whole, exactly="--deterministic" in how)
    same = ("records", "rows", "rejected", "tokens")
    assert [resumed.manifest["counts"][key] for key in same] == [
        whole.manifest["counts"][key] for key in same
    ]
    assert resumed.manifest["counts"]["records"] == 601


@pytest.mark.parametrize(
    ("signals", "code", "status"),
    [
        ([signal.SIGTERM], 143, "stopped"),
        ([signal.SIGINT], 130, "stopped"),
        ([signal.SIGINT, signal.SIGINT], 130, "running"),
    ],
)
def test_a_run_that_is_stopped_goes_on(signals, code, status, tmp_path):
    lines = [f'{{"prompt": "{n}", "fact": "a", "hallucination": "b"}}\n' for n in range(COUNT)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    settings = ["in.jsonl", "--out", "RUN", "--window", "64", "--part-seconds", "0.2"]
    process = Popen([*COMMAND, "run", *settings, "--batch-size", "8"], cwd=tmp_path)
    wait_for_start(process, tmp_path)
    while not list(tmp_path.glob("RUN/metrics/part-*.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    assert process.wait(120) == code
    manifest = streamer.open_run(tmp_path / "RUN").manifest
    assert manifest["status"] == status
    done = run("resume", "RUN", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    before = int(re.search(r"after ([\d,]+) records", done.stdout)[1].replace(",", ""))
    assert 0 < before < COUNT
    assert re.search(rf"records +{COUNT:,} measured, 0 rejected", done.stdout)
    resumed = streamer.open_run(tmp_path / "RUN")
    assert resumed.table("metrics")["row"].to_pylist() == list(range(COUNT))
    (earlier,) = resumed.manifest["earlier_sessions"]
    assert earlier["status"] == ("killed" if status == "running" else "stopped")


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    (tmp_path / "in.jsonl").write_text(GOOD * 50_000)
    command = [*COMMAND, "run", "in.jsonl", "--out", "RUN", "--limit", "40000"]
    process = Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_for_start(process, tmp_path)
    second = run(*command[3:], folder=tmp_path)
    assert second.returncode == 2
    assert "another process is writing to RUN" in second.stderr
    process.kill()
    process.wait()
    assert (tmp_path / "RUN" / ".lock").exists()
    (tmp_path / "in.jsonl").write_text(GOOD)
    third = run(*command[3:], folder=tmp_path)
    assert third.returncode == 2
    assert "RUN cannot go on" in third.stderr  # it got past the lock


def test_of_two_new_runs_in_one_place_the_later_is_refused(tmp_path, monkeypatch):
    """Though the first one has ended between its look and its lock."""
    look = new_folder.check_free

    def finish_meanwhile(path: Path) -> None:
        look(path)
        path.mkdir()
        (path / "manifest.json").write_text("{}")

    monkeypatch.setattr(new_folder, "check_free", finish_meanwhile)
    with pytest.raises(UsageError, match="holds a run already"):
        RunDirectory.make(LocalStorage(tmp_path / "RUN"), EventLog())
    assert (tmp_path / "RUN" / "manifest.json").read_text() == "{}"


def test_parts_close_in_time_though_nothing_comes(tmp_path):
    process = Popen(
        [*COMMAND, "run", "-", "--out", "RUN", "--part-seconds", "1"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
    )
    process.stdin.write(GOOD.encode() * 3)
    process.stdin.flush()
    wait_for_start(process, tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("RUN/metrics/part-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert streamer.open_run(tmp_path / "RUN").table("metrics").num_rows == 3
    process.stdin.close()
    assert process.wait(120) == 0


def test_a_pipe_that_is_fed_again_is_read_up_to_where_the_run_was(tmp_path):
    lines = [f'{{"prompt": "{n}", "fact": "a", "hallucination": "b"}}\n' for n in range(200)]
    command = [*COMMAND, "run", "-", "--out", "RUN", "--part-seconds", "0.5"]
    process = Popen(command, cwd=tmp_path, stdin=subprocess.PIPE)
    process.stdin.write("".join(lines[:120]).encode())
    process.stdin.flush()
    wait_for_start(process, tmp_path)
    while not list(tmp_path.glob("RUN/metrics/part-*.parquet")):
        time.sleep(0.1)
    process.kill()
    process.wait()
    for other, told in (("".join(lines[3:]), "begins otherwise"), (lines[0], "ended earlier")):
        done = run(*command[3:], folder=tmp_path, input=other)
        assert done.returncode == 2
        assert f"the pipe - {told} than when the run was there" in done.stderr
    done = run(*command[3:], folder=tmp_path, input="".join(lines))
    assert done.returncode == 0, done.stderr
    assert streamer.open_run(tmp_path / "RUN").table("metrics")["row"].to_pylist() == [*range(200)]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("", "RUN/manifest.json cannot be read: "),
        ("[1]", "RUN/manifest.json cannot be read: it is not the manifest of a run"),
        ("{}", "RUN/manifest.json cannot be read: it is not the manifest of a run"),
        ('{"name": "a web app"}', "RUN/manifest.json cannot be read: it is not the manifest"),
        ('{"status": "finished", "config": {}}', "RUN cannot go on"),
    ],
)
def test_what_is_no_run_of_this_version_is_told_and_left_alone(manifest, message, tmp_path):
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "manifest.json").write_text(manifest)
    for command in (["run", "--out", "RUN"], ["resume", "RUN"]):
        done = run(*command, folder=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "RUN" / "manifest.json").read_text() == manifest
    assert not list(tmp_path.glob("RUN/*/"))
