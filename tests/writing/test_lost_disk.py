"""A directory that can be written no more: the run stops at once, and says what to do."""

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from streamer.batches import Batch, Result
from streamer.computing.fault_isolation import FaultIsolation
from streamer.errors import RunFault
from streamer.writing.writer import Writer
from support.disks import PART, SMALL, check_stopped, metrics, mounted, records, start, wait_until
from support.runs import run_with


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
