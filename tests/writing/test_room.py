"""What waits for room and writes again: no byte of a part is lost or passed off as written."""

import errno
import os
import random
import resource

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamer
from streamer.concurrency.retry import RetryPolicy
from streamer.writing.parts import PartWriter
from streamer.writing.storage import room
from streamer.writing.storage.base import DiskFull
from streamer.writing.storage.local import LocalStorage, RetryingWriter
from streamer.writing.storage.room import WaitForRoom

SCHEMA = pa.schema([("raw", pa.binary())])


def test_whoever_waits_says_why_and_when_it_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "FIRST_SECONDS", 0.001)
    heard: list[str | None] = []
    waits = WaitForRoom(60, RetryPolicy(on_wait=heard.append))
    there_is = iter([False, False, True])

    def action() -> str:
        if not next(there_is):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return "done"

    assert waits.retry(action, tmp_path / "x") == "done"
    reason = f"disk full ({tmp_path}/x): [Errno {errno.EDQUOT}] Disk quota exceeded"
    assert heard == [reason, reason, None]


def test_waits_grow_to_half_a_minute():
    assert (room.FIRST_SECONDS, room.LONGEST_SECONDS) == (1.0, 30.0)
    assert streamer.RunConfig().disk_wait_seconds == 3600


def test_what_a_failed_fsync_may_have_lost_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "FIRST_SECONDS", 0.001)
    fsync, rewritten = os.fsync, bytearray()
    outcomes = iter([False, False, True])

    def failing(handle: int) -> None:
        if not next(outcomes):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    pwrite = os.pwrite
    monkeypatch.setattr(os, "fsync", failing)
    monkeypatch.setattr(os, "pwrite", lambda handle, data, place: (
        rewritten.extend(data), pwrite(handle, data, place))[1])  # fmt: skip
    content = random.Random(0).randbytes(3_000_000)
    file = RetryingWriter(tmp_path, "x", WaitForRoom(5))
    file.sink.write(content)
    file.finish()
    assert (tmp_path / "x.tmp").read_bytes() == content
    assert rewritten == content * 2


def test_what_a_failed_fsync_did_lose_is_not_passed_off_as_written(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "FIRST_SECONDS", 0.001)

    def losing(handle: int) -> None:
        os.pwrite(handle, bytes(4096), 0)  # the page is as the disk has it
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", losing)
    file = RetryingWriter(tmp_path, "x", WaitForRoom(5))
    file.sink.write(b"x" * 10_000)
    with pytest.raises(OSError, match="what was written is lost"):
        file.finish()


def test_a_part_that_found_no_room_is_never_closed_as_if_it_were_whole(tmp_path):
    parts = PartWriter(LocalStorage(tmp_path), "metrics", SCHEMA, row_group_rows=1)
    parts.append(pa.table({"raw": [bytes(10)]}, schema=SCHEMA))
    rows = pa.table({"raw": [random.Random(0).randbytes(3_000_000)]}, schema=SCHEMA)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(DiskFull):
            parts.append(rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises((OSError, pa.ArrowInvalid)):
        parts.finish({})
    parts.abandon()
    assert not list(tmp_path.glob("*/*"))


def test_a_part_is_what_pyarrow_alone_would_write(tmp_path):
    rows = pa.table({"raw": [random.Random(n).randbytes(1000) for n in range(9)]}, schema=SCHEMA)
    parts = PartWriter(LocalStorage(tmp_path), "metrics", SCHEMA, row_group_rows=9)
    parts.append(rows)
    parts.finish({})
    path = tmp_path / parts.publish()
    with pq.ParquetWriter(
        tmp_path / "alone",
        SCHEMA,
        compression="zstd",
        use_dictionary=["raw"],
        write_page_checksum=True,
    ) as w:
        w.write_table(rows)
        w.add_key_value_metadata({b"streamer": b"{}"})
    assert path.read_bytes().startswith((tmp_path / "alone").read_bytes())
