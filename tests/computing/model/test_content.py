"""The hash of a model's files: of every byte that decides numbers, and each file hashed once."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

import streamer
from streamer.computing.model import content, fingerprint
from streamer.computing.model.content import content_hash
from streamer.config import RunConfig
from streamer.errors import UsageError
from support.models import make_model, make_saes


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "streamer" / "hashes.json"


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.model", "modeling.py", "a.bin"):
        (path / name).write_bytes(name.encode() * 99)
    for name in ("README.md", "optimizer.pt", "rng_state_0.pth", ".hidden.json"):
        (path / name).write_bytes(b"of no consequence")
    return path


def grow_old(folder: Path, monkeypatch) -> None:
    """As if its files had been changed long ago."""
    now = time.time_ns
    monkeypatch.setattr(content.time, "time_ns", lambda: now() + 10**10)


def test_it_is_the_hash_of_the_files_that_decide(folder, cache):
    names = ["a.bin", "config.json", "model.safetensors", "modeling.py", "tokenizer.model"]
    lines = [f"{name} {hashlib.sha256(name.encode() * 99).hexdigest()}\n" for name in names]
    assert content_hash(folder) == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert content_hash(folder / "absent") is None


def test_a_byte_in_the_middle_counts_though_its_size_and_times_are_as_they_were(
    folder, cache, monkeypatch
):
    grow_old(folder, monkeypatch)
    file = folder / "model.safetensors"
    before, known = content_hash(folder), file.stat()
    assert cache.exists()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    with file.open("r+b") as opened:
        opened.write(data)
    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert content_hash(folder) != before


def test_a_file_that_did_not_change_is_not_read_again(folder, cache, monkeypatch):
    grow_old(folder, monkeypatch)
    before = content_hash(folder)

    def read(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(content.hashlib, "file_digest", read)
    assert content_hash(folder) == before


def test_a_file_that_changed_just_now_is_not_kept(folder, cache):
    content_hash(folder)
    assert not cache.exists()


@pytest.mark.parametrize("damage", [b"", b"[", b'{"x": 3}'])
def test_a_damaged_cache_is_no_harm(damage, folder, cache, monkeypatch):
    grow_old(folder, monkeypatch)
    before = content_hash(folder)
    cache.write_bytes(damage)
    assert content_hash(folder) == before
    assert json.loads(cache.read_bytes())


def test_a_cache_that_cannot_be_written_is_no_harm(folder, cache, monkeypatch):
    grow_old(folder, monkeypatch)
    cache.parent.parent.write_bytes(b"a file where the directory would be")
    assert content_hash(folder) == content_hash(folder)


def test_a_run_does_not_go_on_with_other_weights_in_a_middle_layer(tmp_path):
    path = make_model(tmp_path, "llama", intermediate_size=16384)
    saes = {"sae": make_saes(tmp_path, (0,)), "layers": (0,)}
    (tmp_path / "in.jsonl").write_text('{"text": "The moon"}\n{"text": "is far away"}\n')
    settings = {"model": str(path), "paths": [str(tmp_path / "in.jsonl")], **saes}
    settings |= {"out": tmp_path / "RUN", "progress": "none"}
    streamer.run(RunConfig(**settings))
    manifest = tmp_path / "RUN" / "manifest.json"
    entries = json.loads(manifest.read_text())
    assert entries["model"]["content"] == content_hash(path)
    manifest.write_text(json.dumps(entries | {"status": "stopped"}))
    file = path / "model.safetensors"
    assert file.stat().st_size > 5 * 2**20
    change_a_byte(file)
    with pytest.raises(UsageError, match="the model's content was"):
        streamer.run(RunConfig(**settings))
    del entries["model"]["content"]  # as earlier versions wrote it
    manifest.write_text(json.dumps(entries | {"status": "stopped"}))
    streamer.run(RunConfig(**settings))


def test_a_run_does_not_go_on_with_other_weights_in_the_middle_of_an_sae(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "ENDS", 64)
    path = make_model(tmp_path, "llama")
    (tmp_path / "in.jsonl").write_text('{"text": "The moon"}\n{"text": "is far away"}\n')
    settings = {"model": str(path), "sae": make_saes(tmp_path, (0,)), "layers": (0,)}
    settings |= {"paths": [str(tmp_path / "in.jsonl")], "out": tmp_path / "RUN", "progress": "none"}
    streamer.run(RunConfig(**settings))
    manifest = tmp_path / "RUN" / "manifest.json"
    entries = json.loads(manifest.read_text())
    assert entries["saes"][0]["content"] == content_hash(tmp_path / "sae_0")
    manifest.write_text(json.dumps(entries | {"status": "stopped"}))
    change_a_byte(tmp_path / "sae_0" / "sae_weights.safetensors")
    with pytest.raises(UsageError, match="the SAE of layer 0 has other files than it had"):
        streamer.run(RunConfig(**settings))
    del entries["saes"][0]["content"]  # as earlier versions wrote it
    manifest.write_text(json.dumps(entries | {"status": "stopped"}))
    streamer.run(RunConfig(**settings))


def change_a_byte(file: Path) -> None:
    """One in its middle."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte[0] ^ 1]))
