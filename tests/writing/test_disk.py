"""A disk that has no room, or is not there any more: wait, or stop cleanly; never lose a row."""

import base64
import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamer
from streamer import embedded
from streamer.batches import Batch, Result
from streamer.computing.fault_isolation import FaultIsolation
from streamer.concurrency.retry import RetryPolicy
from streamer.errors import RunFault
from streamer.loading import retrying
from streamer.writing.parts import PartWriter
from streamer.writing.storage import room
from streamer.writing.storage.base import DiskFull
from streamer.writing.storage.local import LocalStorage, RetryingWriter
from streamer.writing.storage.room import WaitForRoom
from streamer.writing.writer import Writer
from support.processes import Popen
from support.runs import run_with

SMALL, LARGE, PART = 40, 40, 20
"""Records: the parts of the first ones fit below `LIMIT`, those of the others do not."""
LIMIT = 400_000
SETTINGS = [
    *("--deterministic", "--carry", "note=string"),
    *("--window", str(PART), "--part-rows", str(PART)),
]
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
SCHEMA = pa.schema([("raw", pa.binary())])


def records() -> list[bytes]:
    """Embedded records, a line each; the later ones carry much that cannot be compressed."""
    entries = [
        entry
        for name in ("entity", "logical")
        for entry in json.loads((embedded.RECORDS / f"{name}.json").read_bytes())
    ][: SMALL + LARGE]
    noise = random.Random(0)
    for place, entry in enumerate(entries):
        size = 0 if place < SMALL else 40_000
        entry["note"] = base64.b64encode(noise.randbytes(size)).decode()
    return [json.dumps(entry).encode() + b"\n" for entry in entries]


def start(folder: Path, *flags: str, out: str = "RUN", limit: int | None = None, **settings):
    """`streamer run` over `records`, its files limited to so many bytes; output goes to files."""
    paths = () if "-" in flags else ("in.jsonl",)
    (folder / "in.jsonl").write_bytes(b"".join(records()))
    with (folder / "out.txt").open("w") as output, (folder / "err.txt").open("w") as errors:
        process = Popen(
            [sys.executable, "-m", "streamer", "run", *paths, *flags, *SETTINGS, "--out", out],
            cwd=folder,
            stdout=output,
            stderr=errors,
            **settings,
        )
    if limit:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return process


def wait_until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def events(folder: Path, name: str) -> list[dict]:
    log = folder / "RUN" / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [entry for line in lines if (entry := json.loads(line))["event"] == name]


def said(folder: Path) -> str:
    return " ".join((folder / "out.txt").read_text().split())


def metrics(path: Path) -> pa.Table:
    return streamer.open_run(path).table("metrics")


def check_stopped(folder: Path, process: subprocess.Popen, code: int, message: str) -> None:
    """One line says why, and the small records' parts are there."""
    assert process.wait(60) == code
    (line,) = (folder / "err.txt").read_text().splitlines()
    assert message in line
    assert "resume the run: finished parts are kept" in line
    assert metrics(folder / "RUN")["row"].to_pylist() == list(range(SMALL))


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


@contextlib.contextmanager
def mounted(path: Path, *arguments: str) -> Iterator[Callable[[str], None]]:
    """Something mounted at `path`; gives a function that mounts it again with other options."""

    def mount(*rest: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["mount", *rest, str(path)], capture_output=True, text=True, check=False
        )

    if not Path("/proc/mounts").exists() or os.geteuid() != 0:
        pytest.skip("only root can mount")
    done = mount(*arguments)
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
    try:
        yield lambda options: (mount("-o", f"remount,{options}").check_returncode(), None)[1]
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


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


def feed(process: subprocess.Popen, folder: Path, change: Callable[[], None]) -> None:
    """Give a run from standard input the small records, `change` something, give it the rest."""
    assert process.stdin
    process.stdin.write(b"".join(records()[:SMALL]))
    process.stdin.flush()
    wait_until((folder / "RUN" / "metrics" / "part-00001.parquet").exists, process)
    change()
    with contextlib.suppress(BrokenPipeError):  # it may end before it has read all
        process.stdin.write(b"".join(records()[SMALL:]))
        process.stdin.close()


def test_a_directory_that_became_read_only_is_told_at_once(tmp_path):
    (tmp_path / "RUN").mkdir()
    with contextlib.ExitStack() as stack:
        with mounted(tmp_path / "RUN", "-t", "tmpfs", "none"):
            pass  # or skip before the run is started

        def become_read_only() -> None:
            path = str(tmp_path / "RUN")
            remount = stack.enter_context(mounted(tmp_path / "RUN", "--bind", path))
            remount("bind,ro")

        process = start(tmp_path, "-", stdin=subprocess.PIPE)
        feed(process, tmp_path, become_read_only)
        check_stopped(tmp_path, process, 1, "Read-only file system: 'RUN/metrics/part-00002")
        assert "Make it writable again" in (tmp_path / "err.txt").read_text()


def test_a_directory_that_vanished_is_told_at_once_and_not_made_again(tmp_path):
    process = start(tmp_path, "-", stdin=subprocess.PIPE)
    feed(process, tmp_path, lambda: (tmp_path / "RUN").rename(tmp_path / "elsewhere"))
    assert process.wait(60) == 1
    (line,) = (tmp_path / "err.txt").read_text().splitlines()
    assert "It was removed or unmounted meanwhile: bring it back" in line
    assert not (tmp_path / "RUN").exists()
    assert metrics(tmp_path / "elsewhere")["row"].to_pylist() == list(range(SMALL))


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


def test_a_writer_that_fails_while_the_device_computes_ends_the_run(
    tmp_path, monkeypatch, embedded_worker
):
    failed = threading.Event()
    add, feed = Writer.add, FaultIsolation.feed

    def fail(self: Writer, result: Result) -> None:
        shutil.rmtree(tmp_path / "RUN")
        try:
            add(self, result)
        finally:
            failed.set()

    def feed_later(self: FaultIsolation, batch: Batch) -> list[Result]:
        if batch.window.index:  # until all other stages have ended
            failed.wait(30)
            time.sleep(0.5)
        return feed(self, batch)

    monkeypatch.setattr(Writer, "add", fail)
    monkeypatch.setattr(FaultIsolation, "feed", feed_later)
    (tmp_path / "in.jsonl").write_bytes(b"".join(records()[:SMALL]))
    faults: list[BaseException] = []

    def run() -> None:
        try:
            run_with(
                None, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN",
                window=PART, part_rows=PART, deterministic=True,
            )  # fmt: skip
        except RunFault as fault:
            faults.append(fault)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert "It was removed or unmounted meanwhile" in str(faults[0])


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
    assert path.read_bytes() == (tmp_path / "alone").read_bytes()
