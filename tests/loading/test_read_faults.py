"""Sources that fail while they are read: every record once, or a fault that says where."""

import errno
import functools
import gzip
import hashlib
import json
import random
import threading
import time
from pathlib import Path
from typing import ClassVar

import anyio
import fsspec
import pytest
import zstandard
from fsspec.spec import AbstractBufferedFile

from streamer import embedded
from streamer.concurrency.retry import RetryPolicy
from streamer.config import RunConfig
from streamer.errors import RunFault
from streamer.loading import retrying
from streamer.loading.reading import read_items
from streamer.loading.retrying import RETRIES, RetryingFile
from streamer.loading.sources import expand, read_bytes
from streamer.running.prepare import prepare
from streamer.running.run import run as run_prepared
from support.runs import run_with

LINES = "".join(
    json.dumps({"n": n, "filler": hashlib.md5(b"%d" % n).hexdigest()}) + "\n" for n in range(10_000)
).encode()
ARRAY = b"[" + b",".join(LINES.splitlines()) + b"]"
FORMS = {
    "in.jsonl": LINES,
    "in.json": ARRAY,
    "in.jsonl.gz": gzip.compress(LINES),
    "in.jsonl.zst": zstandard.compress(LINES),
}


class Remote(fsspec.AbstractFileSystem):
    """Files in memory behind fsspec's own buffering, as object stores have it."""

    protocol = "remote"
    cachable = False
    files: ClassVar[dict[str, bytes]] = {}
    faults: ClassVar[list[tuple[int, Exception]]] = []
    """Each is raised once, by the request that asks for this byte."""

    def info(self, path, **_):
        name = self._strip_protocol(path)
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such object", name)
        return {"name": name, "size": len(self.files[name]), "type": "file"}

    def ls(self, path, **_):
        return [self.info(path)]

    def _open(self, path, mode="rb", **_):
        return RemoteFile(self, path, mode, block_size=2**14, size=self.info(path)["size"])


class RemoteFile(AbstractBufferedFile):
    def _fetch_range(self, start, end):
        for fault in Remote.faults:
            if start <= fault[0] < end:
                Remote.faults.remove(fault)
                raise fault[1]
        return Remote.files[self.path][start:end]


@pytest.fixture(autouse=True)
def remote(monkeypatch):
    fsspec.register_implementation("remote", Remote, clobber=True)
    monkeypatch.setattr(Remote, "files", {f"bucket/{name}": data for name, data in FORMS.items()})
    monkeypatch.setattr(Remote, "faults", [])
    return Remote


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(retrying, "FIRST_SECONDS", 0.001)


def logged() -> tuple[RetryPolicy, list[dict]]:
    events: list[dict] = []
    return RetryPolicy(log=lambda event, entries: events.append({"event": event} | entries)), events


def records(count: int) -> bytes:
    """Some of the embedded records, a long line each."""
    entries = json.loads((embedded.RECORDS / "entity.json").read_bytes())[:count]
    noise = random.Random(0)
    lines = [json.dumps(entry | {"note": noise.randbytes(4000).hex()}) + "\n" for entry in entries]
    return "".join(lines).encode()


def numbers(name: str, policy: RetryPolicy) -> list[int]:
    """`n` of every record of a remote file."""
    (source,) = expand([f"remote://bucket/{name}"])
    items = read_items(source, read_bytes(source, lambda _: None, retries=policy), 0)
    return [json.loads(item.raw)["n"] for item in items if item]


@pytest.mark.parametrize("name", FORMS)
def test_after_a_read_error_every_record_is_there_once(name, remote, hurried):
    size = len(FORMS[name])
    for error in (OSError(errno.EIO, "I/O error"), RuntimeError("reset by peer")):
        policy, events = logged()
        places = [size // 5, size // 2, size // 2, size // 2, size - 10]
        remote.faults += [(place, error) for place in places]
        assert numbers(name, policy) == list(range(10_000))
        assert not remote.faults
        retries = [event for event in events if event["event"] == "read retry"]
        assert len(retries) == len(places)
        assert {event["source"] for event in retries} == {f"remote://bucket/{name}"}
        assert all(str(error) in event["error"] for event in retries)
        assert all(event["offset"] <= place for event, place in zip(retries, places, strict=True))


def test_an_error_at_the_first_byte_passes_too(remote, hurried):
    remote.faults += [(0, OSError(errno.ESTALE, "stale file handle"))] * 3
    assert numbers("in.jsonl", RetryPolicy()) == list(range(10_000))


def test_an_error_that_stays_ends_the_run_with_source_and_place(remote, hurried):
    remote.faults += [(100_000, OSError(errno.EIO, "I/O error"))] * 50
    policy, events = logged()
    with pytest.raises(RunFault) as told:
        numbers("in.jsonl", policy)
    message = str(told.value)
    assert "reading remote://bucket/in.jsonl failed at byte" in message
    assert "I/O error" in message
    assert "resume the run" in message
    assert len(remote.faults) == 50 - (1 + RETRIES)
    waits = [event["seconds_to_next"] for event in events]
    assert waits == [0.001, 0.002, 0.004, 0.008, 0.016]


def test_the_waits_are_of_seconds_that_double():
    assert (retrying.FIRST_SECONDS, RETRIES) == (1.0, 5)


@pytest.mark.parametrize("becomes", [LINES[:50_000], LINES.replace(b"0", b"1")])
def test_a_source_that_is_another_one_after_an_error_is_not_read_on(becomes, remote, hurried):
    remote.faults.append((200_000, OSError(errno.ESTALE, "stale file handle")))
    exchange = RetryPolicy(log=lambda *_: remote.files.update({"bucket/in.jsonl": becomes}))
    with pytest.raises(RunFault, match=r"in\.jsonl changed while it was read, before byte"):
        numbers("in.jsonl", exchange)


@pytest.mark.parametrize("place", [0, 300_000])
@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
def test_stopping_ends_the_wait_and_makes_no_record_of_half_a_line(
    place, name, remote, monkeypatch
):
    monkeypatch.setattr(retrying, "FIRST_SECONDS", 60.0)
    place = place * len(FORMS[name]) // len(LINES)
    remote.faults += [(place, OSError(errno.EIO, "I/O error"))] * 50
    policy = RetryPolicy()
    (source,) = expand([f"remote://bucket/{name}"])
    items = read_items(source, read_bytes(source, lambda _: None, retries=policy), 0)
    threading.Timer(0.3, policy.stopped.set).start()
    begin = time.monotonic()
    read = []
    while (item := next(items)) is not None:
        read.append(item.raw)
    assert time.monotonic() - begin < 5
    assert bool(place) == bool(read)
    assert len(read) < 10_000
    assert read == LINES.splitlines()[: len(read)]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file whose reading fails")
def test_what_cannot_be_opened_again_is_tried_once(hurried):
    def opened():
        return Path("/proc/self/mem").open("rb", buffering=0)  # nothing is at 0: EIO

    for once, tries in ((False, 1 + RETRIES), (True, 1)):
        policy, events = logged()
        fault = pytest.raises(RunFault, match=r"reading - failed at byte 0: .*Errno 5")
        with RetryingFile("-", opened, policy, once) as file, fault:
            file.read(10)
        assert len(events) == tries - 1


def test_reading_can_begin_anywhere_and_still_survives_an_error(remote, hurried):
    (source,) = expand(["remote://bucket/in.jsonl"])
    for place in (123_456, 123_456 + 2**14):
        remote.faults.append((place, OSError(errno.EIO, "I/O error")))
        file = RetryingFile("in", lambda: source.fs.open(source.path, "rb"), RetryPolicy())
        file.seek(123_456)
        with file:
            assert b"".join(iter(functools.partial(file.read, 10_000), b"")) == LINES[123_456:]
        assert file.offset == len(LINES)
        assert not remote.faults


def test_an_input_that_vanished_before_its_turn_is_told_at_once(tmp_path, embedded_worker):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(records(4))
    config = RunConfig(paths=[str(tmp_path)], out=tmp_path / "RUN", progress="none")
    prepared = prepare(config)
    (tmp_path / "b.jsonl").unlink()
    worker = embedded_worker(prepared.loader.fields.kind)
    begin = time.monotonic()
    with pytest.raises(RunFault, match=r"b\.jsonl is gone: .* resume the run"):
        anyio.run(run_prepared, prepared, worker)
    assert time.monotonic() - begin < 10  # the retries would take half a minute


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
def test_a_run_over_a_failing_source_writes_what_an_undisturbed_one_does(
    name, tmp_path, remote, hurried
):
    data = records(40)
    remote.files[f"bucket/{name}"] = gzip.compress(data) if name.endswith("gz") else data
    size = len(remote.files[f"bucket/{name}"])
    settings = {"paths": [f"remote://bucket/{name}"], "deterministic": True}
    good, _ = run_with(None, out=tmp_path / "good", **settings)
    remote.faults += [
        (place, OSError(errno.EIO, "I/O error")) for place in (0, size // 2, size - 1)
    ]
    bad, _ = run_with(None, out=tmp_path / "bad", **settings)
    assert not remote.faults
    assert bad.table("metrics").num_rows == 40
    assert bad.table("metrics").equals(good.table("metrics"))
