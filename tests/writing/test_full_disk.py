"""A disk that has no room: the run waits, says so, and loses no row; or it stops in order."""

import errno
import os
import resource
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

import streamer
from streamer.errors import RunFault
from streamer.loading import retrying
from support.disks import (
    LIMIT,
    PART,
    SMALL,
    check_stopped,
    events,
    metrics,
    mounted,
    records,
    said,
    start,
    wait_until,
)
from support.runs import run_with

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> pa.Table:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert start(folder).wait(120) == 0
    sizes = [part.stat().st_size for part in streamer.open_run(folder / "RUN").parts("metrics")]
    assert [size > LIMIT for size in sizes] == [False, False, True, True], sizes
    return metrics(folder / "RUN")


def test_a_run_waits_for_room_and_goes_on_where_it_was(tmp_path, undisturbed):
    process = start(tmp_path, limit=LIMIT)
    wait_until(lambda: len(events(tmp_path, "disk full")) > 1, process)
    assert metrics(tmp_path / "RUN").equals(undisturbed.slice(0, SMALL))
    event = events(tmp_path, "disk full")[0]
    assert event["errno"] == errno.EFBIG
    assert event["path"] == "RUN/metrics/part-00002.parquet.tmp"
    assert said(tmp_path).count("waiting: disk full (RUN/metrics/part-00002.parquet.tmp)") == 1
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, UNLIMITED)
    assert process.wait(60) == 0
    assert metrics(tmp_path / "RUN").equals(undisturbed)
    assert events(tmp_path, "went on")[0]["tries"] > 2
    assert streamer.open_run(tmp_path / "RUN").manifest["status"] == "finished"


def test_when_there_is_no_room_for_too_long_the_run_stops_and_says_so(tmp_path, undisturbed):
    process = start(tmp_path, "--disk-wait-seconds", "2", limit=LIMIT)
    message = "writing to RUN failed: [Errno 27] File too large, for "
    check_stopped(tmp_path, process, 1, message)
    assert "Raise the limit" in (tmp_path / "err.txt").read_text()
    assert metrics(tmp_path / "RUN").equals(undisturbed.slice(0, SMALL))
    assert not list((tmp_path / "RUN").rglob("*.tmp"))
    assert streamer.open_run(tmp_path / "RUN").manifest["status"] == "failed"


def test_a_signal_ends_the_wait_for_room(tmp_path):
    process = start(tmp_path, limit=LIMIT)
    wait_until(lambda: len(events(tmp_path, "disk full")) > 3, process)
    begin = datetime.now(UTC)
    process.send_signal(signal.SIGTERM)
    check_stopped(tmp_path, process, 143, "part-00002.parquet.tmp")
    (event,) = events(tmp_path, "stopped")
    assert (datetime.fromisoformat(event["time"]) - begin).total_seconds() < 4  # it waits for 8
    manifest = streamer.open_run(tmp_path / "RUN").manifest
    assert manifest["status"] == "stopped"
    assert "part-00002.parquet.tmp" in manifest["cause"]  # only an orderly end has none


def test_a_full_disk_holds_the_run_until_there_is_room(tmp_path, undisturbed):
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", f"size={LIMIT + 300_000}", "none") as remount:
        process = start(tmp_path, out="disk/RUN")
        wait_until(lambda: "waiting: disk full" in said(tmp_path), process)
        assert os.strerror(errno.ENOSPC) in said(tmp_path)
        assert metrics(disk / "RUN").equals(undisturbed.slice(0, SMALL))
        remount("size=20m")
        assert process.wait(60) == 0
        assert metrics(disk / "RUN").equals(undisturbed)


class Failing(fsspec.implementations.local.LocalFileSystem):
    """Files whose last bytes cannot be read, and that only once the disk is full."""

    protocol = "failing"
    cachable = False
    log: Path

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("failing://"))

    def _open(self, path, mode="rb", **options):
        file = super()._open(path, mode, **options)
        read, size = file.read, file.size

        def read_or_fail(length: int) -> bytes:
            if file.tell() + length > size - 10_000:
                if not self.log.exists():  # the input is only looked at
                    return read(length)
                while "disk full" not in self.log.read_text():
                    time.sleep(0.05)
                raise OSError(errno.EIO, "I/O error")
            return read(length)

        file.read = read_or_fail
        return file


def test_a_fault_elsewhere_ends_the_wait_for_room(tmp_path, monkeypatch):
    fsspec.register_implementation("failing", Failing, clobber=True)
    monkeypatch.setattr(Failing, "log", tmp_path / "RUN" / "log.jsonl", raising=False)
    monkeypatch.setattr(retrying, "FIRST_SECONDS", 0.01)
    (tmp_path / "in.jsonl").write_bytes(b"".join(records()))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    begin = time.monotonic()
    try:
        with pytest.raises(RunFault, match=r"reading failing://.* failed at byte"):
            run_with(
                None, paths=[f"failing://{tmp_path}/in.jsonl"], out=tmp_path / "RUN",
                carry={"note": "string"}, window=PART, part_rows=PART, deterministic=True,
            )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert time.monotonic() - begin < 60
