"""How the stages hold each other back, drain and fail."""

import math
import os
import threading
import time

import anyio
import pytest

from streamer.batches import Batch, Result
from streamer.computing.fault_isolation import FaultIsolation
from streamer.concurrency.queues import Queue
from streamer.config import RunConfig
from streamer.errors import RunFault
from streamer.loading.loader import CHUNK_RECORDS
from streamer.results.run import open_run
from streamer.running.pipeline import AHEAD, WAITING
from streamer.running.prepare import Prepared, prepare
from streamer.running.run import run as run_prepared
from support.instant import Instant, many
from support.processes import GOOD
from support.runs import run_with


@pytest.fixture
def worker(embedded_worker) -> Instant:
    return Instant(embedded_worker("contrast"))


def test_with_a_stalled_writer_little_is_held(tmp_path, worker, monkeypatch):
    from streamer.writing.writer import Writer

    settings = {"prefetch_records": 512, "window": 256, "batch_size": 16, "prefetch_bytes": 10**6}
    prepared = prepare(
        RunConfig(paths=[many(tmp_path, 20_000)], out=tmp_path / "RUN", progress="none", **settings)
    )
    stalled, go_on, held = threading.Event(), threading.Event(), []
    add = Writer.add

    def stall(self, result):
        stalled.set()
        assert go_on.wait(60)
        return add(self, result)

    def look() -> None:
        stalled.wait(60)
        before = -1
        while before != prepared.loader.records:  # until the stages before it stand still
            before = prepared.loader.records
            time.sleep(0.5)
        held.append(before)
        go_on.set()

    monkeypatch.setattr(Writer, "add", stall)
    watcher = threading.Thread(target=look)
    watcher.start()
    anyio.run(run_prepared, prepared, worker)
    watcher.join()
    # the loaded queue and the chunk at its door, one window, and what the two short queues hold
    bound = 512 + 2 * CHUNK_RECORDS + (256 + CHUNK_RECORDS) + (AHEAD + WAITING + 3) * 16
    assert 512 < held[0] <= bound
    assert open_run(tmp_path / "RUN").table("metrics").num_rows == 20_000


def test_a_queue_is_bounded_in_bytes_and_lets_a_giant_pass_alone():
    async def main() -> list[int]:
        queue: Queue[int] = Queue("q", max_items=100, max_bytes=10)
        seen = []

        async def fill() -> None:
            with queue:
                for size in (4, 4, 4, 50, 4):
                    await queue.send(size, size)

        async with anyio.create_task_group() as group:
            group.start_soon(fill)
            await anyio.wait_all_tasks_blocked()
            assert queue.held_bytes == 8
            assert queue.fill == 0.8
            async for size in queue:
                seen.append(size)
                await anyio.wait_all_tasks_blocked()
                assert queue.held_bytes <= max(10, 50 if 50 not in seen else 0)
        return seen

    assert anyio.run(main) == [4, 4, 4, 50, 4]


def test_a_queue_knows_how_long_its_receiver_waits():
    async def main() -> None:
        queue: Queue[int] = Queue("q", max_items=1)
        async with anyio.create_task_group() as group:
            waited = math.inf
            for item in range(2):
                assert queue.starved_seconds == 0
                group.start_soon(queue.receive)
                await anyio.wait_all_tasks_blocked()
                assert queue.starved_seconds < waited, "since the last time it asked"
                await anyio.sleep(0.5)
                waited = queue.starved_seconds
                assert waited >= 0.5
                await queue.send(item)
                await anyio.wait_all_tasks_blocked()

    anyio.run(main)


def test_one_thread_owns_the_device(tmp_path, worker):
    run_with(worker, paths=[many(tmp_path, 500)], out=tmp_path / "RUN", batch_size=8)
    assert len(worker.threads) == 1


def test_rows_come_out_in_input_order_though_batches_are_sorted(tmp_path, worker):
    lines = [GOOD.replace("sky", "sky " * (n * 7 % 11)) for n in range(300)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    run, _ = run_with(
        worker, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN", batch_size=7, window=100
    )
    metrics = run.table("metrics")
    assert metrics["row"].to_pylist() == list(range(300))
    assert metrics["l1_prompt_l2_norm"].to_pylist() == [row % 4 for row in range(300)]
    lengths = metrics["prompt_tokens"].to_pylist()
    assert lengths != sorted(lengths)


def test_what_is_here_is_measured_though_more_may_come(tmp_path, worker):
    pipe, measured = tmp_path / "in.jsonl", []
    os.mkfifo(pipe)

    def feed() -> None:
        with pipe.open("w") as file:
            file.write(GOOD * 3)
            file.flush()
            measured.append(worker.worked.wait(10))  # the pipe is still open

    feeder = threading.Thread(target=feed)
    feeder.start()
    run, _ = run_with(worker, paths=[str(pipe)], out=tmp_path / "RUN")
    feeder.join()
    assert measured == [True]
    assert run.table("metrics")["row"].to_pylist() == [0, 1, 2]


def test_a_stage_that_breaks_ends_the_run_and_keeps_finished_parts(tmp_path, worker, monkeypatch):
    feed = FaultIsolation.feed

    def broken(computing: FaultIsolation, batch: Batch) -> list[Result]:
        if any(record.origin.row == 900 for record in batch.records):
            raise ValueError("a stage broke")
        return feed(computing, batch)

    monkeypatch.setattr(FaultIsolation, "feed", broken)
    with pytest.raises(RunFault, match="ValueError: a stage broke"):
        run_with(
            worker,
            paths=[many(tmp_path, 2000)],
            out=tmp_path / "RUN",
            window=64,
            batch_size=64,
            part_rows=100,
        )
    run = open_run(tmp_path / "RUN")
    rows = run.table("metrics")["row"].to_pylist()
    assert rows == list(range(len(rows)))
    assert 0 < len(rows) <= 900
    assert run.manifest["status"] == "failed"
    assert "a stage broke" in run.manifest["cause"]
    assert not list(tmp_path.glob("RUN/*/*.tmp"))


def test_a_disk_that_fails_is_told_as_such(tmp_path, worker, monkeypatch):
    import pyarrow.parquet as pq

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(RunFault, match=r"writing to .*RUN failed: .*No space left"):
        run_with(worker, paths=[many(tmp_path, 10)], out=tmp_path / "RUN")


def stop_when_at_work(worker: Instant, prepared: Prepared, after: float) -> None:
    """Ask the run to stop so many seconds after its first batch."""

    def stop() -> None:
        worker.worked.wait(60)
        time.sleep(after)
        prepared.loader.stop()

    threading.Thread(target=stop).start()


def test_asked_to_stop_it_drains_what_is_in_flight(tmp_path, worker):
    worker.delay = 0.01
    prepared = prepare(
        RunConfig(paths=[many(tmp_path, 50_000)], out=tmp_path / "RUN", progress="none")
    )
    stop_when_at_work(worker, prepared, after=0.0)
    anyio.run(run_prepared, prepared, worker)
    run = open_run(tmp_path / "RUN")
    assert run.manifest["status"] == "stopped"
    assert "cause" not in run.manifest
    rows = run.table("metrics")["row"].to_pylist()
    assert rows == list(range(len(rows)))
    assert 0 < len(rows) <= prepared.loader.records < 50_000


def test_what_is_in_flight_too_long_is_left_for_another_time(tmp_path, worker, monkeypatch):
    monkeypatch.setattr("streamer.loading.loader.DRAIN_SECONDS", 0.2)
    worker.delay = 0.1
    settings = {"paths": [many(tmp_path, 500)], "out": tmp_path / "RUN", "deterministic": True}
    prepared = prepare(RunConfig(progress="none", batch_size=1, window=100, **settings))
    stop_when_at_work(worker, prepared, after=0.5)
    anyio.run(run_prepared, prepared, worker)
    assert 0 < prepared.counters.done < 100  # a window takes ten seconds
    assert open_run(tmp_path / "RUN").table("metrics").num_rows == 0
    worker.delay = 0.0
    run, _ = run_with(worker, batch_size=1, window=100, **settings)
    assert run.table("metrics")["row"].to_pylist() == list(range(500))
