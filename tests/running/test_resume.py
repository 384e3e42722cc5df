"""A run goes on where it was, and only with what it was begun with."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pytest

import streamer
from streamer import RunConfig, UsageError
from streamer.embedded import MODEL, RECORDS, SAES
from streamer.manifest import Manifest
from streamer.results.run import Run
from streamer.running import prepare as preparation
from streamer.running.prepare import prepare
from streamer.writing.directory import RunDirectory
from streamer.writing.event_log import EventLog
from streamer.writing.storage import new_folder
from streamer.writing.storage.local import LocalStorage
from support.processes import COMMAND, GOOD, Popen, run, run_with_kills, wait_for_start
from support.runs import run_with

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
    write_input(tmp_path, 1200)
    common = ["run", "in", *how, "--progress", "none", "--window", "16", "--part-seconds", "0.05"]
    assert run(*common, "--out", "WHOLE", folder=tmp_path).returncode == 0
    killed = run_with_kills(tmp_path, [*common, "--out", "RUN"], kills=5, seed=3, latest=1.5)
    resumed, whole = (streamer.open_run(tmp_path / name) for name in ("RUN", "WHOLE"))
    assert killed >= 2
    assert len(resumed.manifest["earlier_sessions"]) == killed
    assert len(resumed.parts("metrics")) > 3
    assert_same(resumed, whole, exactly="--deterministic" in how)
    same = ("records", "rows", "rejected", "tokens")
    assert [resumed.manifest["counts"][key] for key in same] == [
        whole.manifest["counts"][key] for key in same
    ]
    assert resumed.manifest["counts"]["records"] == 1201


@pytest.mark.parametrize(
    ("signals", "code", "status"),
    [
        ([signal.SIGTERM], 143, "stopped"),
        ([signal.SIGINT], 130, "stopped"),
        ([signal.SIGINT, signal.SIGINT], 130, "running"),
    ],
)
def test_a_run_that_is_stopped_goes_on(signals, code, status, tmp_path):
    lines = [f'{{"prompt": "{n}", "fact": "a", "hallucination": "b"}}\n' for n in range(3000)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    settings = ["in.jsonl", "--out", "RUN", "--window", "64", "--part-seconds", "0.2"]
    process = Popen([*COMMAND, "run", *settings, "--batch-size", "8"], cwd=tmp_path)
    wait_for_start(process, tmp_path)
    while not list(tmp_path.glob("RUN/metrics/part-*.parquet")):
        time.sleep(0.02)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    assert process.wait(30) == code
    manifest = streamer.open_run(tmp_path / "RUN").manifest
    assert manifest["status"] == status
    done = run("resume", "RUN", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    before = int(re.search(r"after ([\d,]+) records", done.stdout)[1].replace(",", ""))
    assert 0 < before < 3000
    assert re.search(r"samples +3,000 measured, 0 rejected", done.stdout)
    resumed = streamer.open_run(tmp_path / "RUN")
    assert resumed.table("metrics")["row"].to_pylist() == list(range(3000))
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of three records, and its input."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "in.jsonl").write_text(GOOD * 3)
    run_with(None, paths=[str(folder / "in.jsonl")], out=folder / "RUN")
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it, of its own."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    manifest = json.loads((copy / "RUN" / "manifest.json").read_text())
    manifest["inputs"][0]["name"] = str(copy / "in.jsonl")
    manifest["config"]["paths"] = [str(copy / "in.jsonl")]
    (copy / "RUN" / "manifest.json").write_text(json.dumps(manifest))
    return copy


def again(folder: Path, **changes):
    settings = {"paths": [str(folder / "in.jsonl")], "out": folder / "RUN", "progress": "none"}
    return prepare(RunConfig(**settings | changes))


def test_a_finished_run_says_so(folder):
    prepared = again(folder)
    assert prepared.is_finished
    prepared.directory.leave()
    done = run("run", str(folder / "in.jsonl"), "--out", str(folder / "RUN"), folder=folder)
    assert done.returncode == 0, done.stderr
    assert "RUN is finished: 3 records" in done.stdout


def test_what_decides_no_number_may_change(folder):
    prepared = again(folder, part_seconds=5, batch_size=2, window=7, prefetch_records=64)
    assert prepared.is_finished
    prepared.directory.leave()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"noise_std": 0.5}, r"noise_std was 0\.1 and is 0\.5"),
        ({"dtype": "float64"}, "dtype was 'float32' and is 'float64'"),
        ({"bf16": True}, "bf16 was False and is True"),
        ({"field": {"fact": "hallucination"}}, "field was"),
        ({"carry": {"n": "int64"}}, "carry was"),
        ({"layers": (1, 3)}, "layers was"),
        ({"too_long": "truncate"}, "too_long was"),
        ({"deterministic": True}, "deterministic was False and is True"),
        ({"kind": "text"}, "its records were 'contrast' and are to be 'text'"),
        ({"model": str(MODEL), "sae": SAES, "layers": (1, 3, 5)}, "model was 'embedded' and is"),
    ],
)
def test_other_settings_are_refused_and_named(folder, changes, named):
    with pytest.raises(UsageError, match=named):
        again(folder, **changes)
    again(folder).directory.leave()  # and the lock is free


@pytest.mark.parametrize(
    ("what", "key", "told"),
    [
        ("model", "files", "the model's files was other and is"),
        ("model", "revision", "the model's revision was other and is None"),
        ("sae", "files", "the SAE of layer 3 has other files than it had"),
        ("sae", "revision", "the SAE of layer 3 was revision other and is None"),
    ],
)
def test_another_model_or_sae_is_refused_and_named(folder, what, key, told):
    path = folder / "RUN" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"status": "stopped"}
    (manifest["model"] if what == "model" else manifest["saes"][1])[key] = "other"
    path.write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=told):
        run_with(None, paths=[str(folder / "in.jsonl")], out=folder / "RUN")
    assert json.loads(path.read_text()) == manifest


def test_the_batches_of_a_deterministic_run_may_not_change(tmp_path):
    (tmp_path / "in.jsonl").write_text(GOOD)
    paths, out = [str(tmp_path / "in.jsonl")], tmp_path / "RUN"
    done = run("run", *paths, "--out", str(out), "--deterministic", folder=tmp_path)
    assert done.returncode == 0
    with pytest.raises(UsageError, match="window was None and is 7"):
        prepare(RunConfig(paths=paths, out=out, deterministic=True, window=7))


def changed(path: Path, text: str) -> None:
    """Write `text`, and say the file is as old as it was."""
    known = path.stat()
    path.write_text(text)
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))


def test_a_changed_input_is_refused_and_named(folder):
    path = folder / "in.jsonl"
    os.utime(path, (1, 1))
    with pytest.raises(UsageError, match=r"in\.jsonl was changed: its time of modification was"):
        again(folder)


def test_an_input_of_another_size_or_content_is_refused(folder, monkeypatch):
    path = folder / "in.jsonl"
    manifest = json.loads((folder / "RUN" / "manifest.json").read_text())
    manifest["inputs"][0]["modified"] = str(path.stat().st_mtime)
    (folder / "RUN" / "manifest.json").write_text(json.dumps(manifest))
    again(folder).directory.leave()
    text = path.read_text()
    changed(path, text.replace("blue", "BLUE"))
    with pytest.raises(UsageError, match=r"its first 64 KiB are others; .*its last 64 KiB"):
        again(folder)
    changed(path, text + GOOD)
    with pytest.raises(UsageError, match="its size was"):
        again(folder)


def test_inputs_that_come_or_go_are_refused(folder):
    other = folder / "other.jsonl"
    other.write_text(GOOD)
    with pytest.raises(UsageError, match=r"it was not to read \S+other.jsonl"):
        again(folder, paths=[str(folder / "in.jsonl"), str(other)])
    with pytest.raises(UsageError, match=r"it has read \S+in.jsonl, which is not named now"):
        again(folder, paths=[str(other)])


def test_fresh_begins_beside_it(folder):
    config = RunConfig(paths=[str(folder / "in.jsonl")], out=folder / "RUN", seed=1)
    assert prepare(config, fresh=True).out == folder / "RUN-2"
    command = ["run", "in.jsonl", "--out", "RUN", "--seed", "1"]
    assert run(*command, folder=folder).returncode == 2
    assert run(*command, "--fresh", folder=folder).returncode == 0
    assert streamer.open_run(folder / "RUN").manifest["config"]["seed"] == 0
    assert streamer.open_run(folder / "RUN-2").manifest["config"]["seed"] == 1
    assert prepare(config, fresh=True).out == folder / "RUN-3"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_path_that_cannot_be_is_told(folder, fresh):
    config = RunConfig(paths=[str(folder / "in.jsonl")], out=folder / ("x" * 300))
    with pytest.raises(UsageError, match=r"cannot use .* as run directory: .*too long"):
        prepare(config, fresh=fresh)


def test_a_place_where_nothing_can_be_made_is_told(folder, small_disk):
    below_a_file = RunConfig(paths=[str(folder / "in.jsonl")], out=folder / "in.jsonl" / "RUN")
    with pytest.raises(UsageError, match=r"in\.jsonl is a file, not a directory"):
        prepare(below_a_file)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    read_only = below_a_file.model_copy(update={"out": small_disk / "runs" / "RUN"})
    with pytest.raises(UsageError, match=r"cannot write to .*RUN: .*disk is read-only"):
        prepare(read_only)


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


def test_the_manifest_is_read_when_nobody_else_can_write_it(folder, monkeypatch):
    read, path = preparation.manifest_of, folder / "RUN" / "manifest.json"

    def read_later(out: Path) -> Manifest:
        manifest = read(out)
        if not (folder / "RUN" / ".lock").exists():  # the other one ends
            path.write_text(json.dumps(manifest.entries() | {"status": "finished"}))
        return manifest

    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "running"}))
    (folder / "RUN" / ".lock").unlink()
    monkeypatch.setattr(preparation, "manifest_of", read_later)
    prepared = again(folder)
    assert prepared.is_finished
    prepared.directory.leave()


def test_parts_close_in_time_though_nothing_comes(tmp_path):
    process = Popen(
        [*COMMAND, "run", "-", "--out", "RUN", "--part-seconds", "1"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
    )
    process.stdin.write(GOOD.encode() * 3)
    process.stdin.flush()
    wait_for_start(process, tmp_path)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("RUN/metrics/part-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert streamer.open_run(tmp_path / "RUN").table("metrics").num_rows == 3
    process.stdin.close()
    assert process.wait(30) == 0


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


def test_a_run_whose_directory_or_settings_are_gone_is_told(folder):
    manifest = folder / "RUN" / "manifest.json"
    said = json.loads(manifest.read_text())
    for change, told in (
        ({"working_directory": str(folder / "gone")}, "Bring that directory back"),
        ({"config": said["config"] | {"colour": "red"}}, "which this version does not know"),
    ):
        manifest.write_text(json.dumps(said | change))
        done = run("resume", "RUN", folder=folder)
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def test_an_earlier_part_that_is_damaged_is_reported_and_the_run_goes_on(folder):
    manifest = folder / "RUN" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"status": "stopped"}))
    (folder / "RUN" / "rejected" / "part-00000.parquet").write_bytes(b"rubbish")
    run_with(None, paths=[str(folder / "in.jsonl")], out=folder / "RUN")
    log = (folder / "RUN" / "log.jsonl").read_text().splitlines()
    (note,) = (line for line in log if '"event":"note"' in line)
    assert "rejected/part-00000.parquet is damaged" in note
