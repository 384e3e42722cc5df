"""A run goes on only with what it was begun with; what differs is named, and nothing is lost."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamer
from streamer import RunConfig, UsageError
from streamer.embedded import MODEL, SAES
from streamer.manifest import Manifest
from streamer.running import prepare as preparation
from streamer.running.prepare import prepare
from streamer.writing.names import Names
from streamer.writing.storage.base import Storage
from support.processes import GOOD, run
from support.runs import embedded, run_with


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


def test_a_finished_run_whose_parts_were_removed_measures_them_again(folder):
    before = streamer.open_run(folder / "RUN").table("metrics")
    for table in ("metrics", "rejected"):
        for part in streamer.open_run(folder / "RUN").parts(table):
            part.unlink()
    done = run("run", str(folder / "in.jsonl"), "--out", str(folder / "RUN"), folder=folder)
    assert done.returncode == 0, done.stderr
    after = streamer.open_run(folder / "RUN")
    assert after.table("metrics")["row"].equals(before["row"])
    assert after.manifest["counts"]["records"] == 3


def test_what_decides_no_number_may_change(folder):
    prepared = again(
        folder, part_seconds=5, batch_size=2, window=7, prefetch_records=64, allow_other_model=True
    )
    assert prepared.is_finished
    prepared.directory.leave()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"noise_std": 0.5}, r"noise_std was 0\.1 and is 0\.5"),
        ({"noise_draws": 1}, "noise_draws was 8 and is 1"),
        ({"noise_scale": "relative"}, "noise_scale was 'absolute' and is 'relative'"),
        ({"separator": ""}, "separator was ' ' and is ''"),
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


def test_a_run_of_a_version_that_told_no_tokenizer_goes_on_if_that_is_the_same(folder, monkeypatch):
    path = folder / "RUN" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"status": "stopped"}
    del manifest["notes"]
    for key in ("bos_token", "tokenizer", "tokenizer_is_transformers", "vocabulary"):
        del manifest["model"][key]
    path.write_text(json.dumps(manifest))
    worker = embedded("contrast")
    monkeypatch.setattr(worker.model, "tokenizer_is_transformers", False)
    with pytest.raises(UsageError, match="tokens were those of AutoTokenizer and are those of the"):
        run_with(worker, paths=[str(folder / "in.jsonl")], out=folder / "RUN")
    monkeypatch.undo()
    run_with(worker, paths=[str(folder / "in.jsonl")], out=folder / "RUN")
    assert json.loads(path.read_text())["model"]["tokenizer"] == ["tokenizer.json"]


def test_rows_of_uncentred_residuals_are_not_gone_on_with(folder):
    """As a version wrote them that did not honour what the SAE's metadata say."""
    path = folder / "RUN" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"status": "stopped"}
    for sae in manifest["saes"]:
        del sae["centred"], sae["signed"]
    path.write_text(json.dumps(manifest | {"notes": ["of the first session"]}))
    run_with(None, paths=[str(folder / "in.jsonl")], out=folder / "RUN")
    assert "of the first session" in json.loads(path.read_text())["notes"]
    manifest["saes"][1]["centred"] = True
    path.write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="layer 3 was centred = True and is centred = False"):
        run_with(None, paths=[str(folder / "in.jsonl")], out=folder / "RUN")


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


def test_the_manifest_is_read_when_nobody_else_can_write_it(folder, monkeypatch):
    read, path = preparation.manifest_of, folder / "RUN" / "manifest.json"

    def read_later(storage: Storage, names: Names) -> Manifest:
        manifest = read(storage, names)
        if not (folder / "RUN" / ".lock").exists():  # the other one ends
            path.write_text(json.dumps(manifest.entries() | {"status": "finished"}))
        return manifest

    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "running"}))
    (folder / "RUN" / ".lock").unlink()
    monkeypatch.setattr(preparation, "manifest_of", read_later)
    prepared = again(folder)
    assert prepared.is_finished
    prepared.directory.leave()


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


def rubbish(part: Path) -> None:
    part.write_bytes(b"rubbish")


def no_reason(part: Path) -> None:
    pq.write_table(pa.table({"reason": pa.nulls(1, pa.string())}), part)


def not_unicode(part: Path) -> None:
    pq.write_table(pa.table({"reason": pa.array([b"\xff"]).view(pa.string())}), part)


@pytest.mark.parametrize("damage", [rubbish, no_reason, not_unicode])
def test_an_earlier_part_that_is_damaged_is_reported_and_the_run_goes_on(folder, damage):
    manifest = folder / "RUN" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"status": "stopped"}))
    damage(folder / "RUN" / "rejected" / "part-00000.parquet")
    run_with(None, paths=[str(folder / "in.jsonl")], out=folder / "RUN")
    log = (folder / "RUN" / "log.jsonl").read_text().splitlines()
    (note,) = (line for line in log if '"event":"note"' in line)
    assert "rejected/part-00000.parquet is damaged" in note


def test_a_log_that_cannot_be_opened_keeps_no_lock(folder):
    log = folder / "RUN" / "log.jsonl"
    log.unlink()
    log.mkdir()
    with pytest.raises(UsageError, match="cannot write to the run directory") as kept:
        again(folder)
    log.rmdir()
    again(folder).leave()
    assert kept.traceback  # a notebook keeps it, and with it all that the first try held
