"""The threads of stages and the event loop."""

import threading

import anyio
import pytest

import streamer
from streamer.batches import Batch, Result
from streamer.computing.fault_isolation import FaultIsolation
from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.concurrency.queues import Queue
from streamer.concurrency.threads import Threads, in_loop
from streamer.config import RunConfig


def test_a_thread_that_asks_the_loop_only_after_its_stage_was_cancelled_does_not_wait_for_ever():
    cancelled = threading.Event()

    async def main() -> None:
        queue: Queue[int] = Queue("q", 1)

        def ask() -> None:
            cancelled.wait(10)
            in_loop(queue.receive)  # in which nothing will ever come

        async def breaks() -> None:
            await anyio.sleep(0.1)
            raise ValueError("broken")

        async def tell() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                threading.Timer(0.3, cancelled.set).start()

        async with anyio.create_task_group() as group:
            group.start_soon(Threads().run, "compute", ask)
            group.start_soon(tell)
            group.start_soon(breaks)

    runner = threading.Thread(target=lambda: outcome.append(_error_of(main)), daemon=True)
    outcome: list[BaseException] = []
    runner.start()
    runner.join(10)
    assert outcome, "it waits for ever"
    assert isinstance(outcome[0], ExceptionGroup)
    assert "broken" in str(outcome[0].exceptions[0])


def test_the_thread_that_loads_is_gone_while_another_computes(tmp_path, monkeypatch):
    """Or OpenMP would have more threads than cores, which sleep whenever they wait."""
    loaded_in, lives = [], []
    feed = FaultIsolation.feed

    def load(*arguments, **settings) -> Worker:
        loaded_in.append(threading.current_thread())
        return load_worker(*arguments, **settings)

    def look(computing: FaultIsolation, batch: Batch) -> list[Result]:
        lives.append(loaded_in[0].is_alive())
        return feed(computing, batch)

    monkeypatch.setattr("streamer.running.load.load_worker", load)
    monkeypatch.setattr(FaultIsolation, "feed", look)
    streamer.run(RunConfig(limit=3, out=tmp_path / "RUN", progress="none"))
    assert lives
    assert not any(lives)


def _error_of(main) -> BaseException:
    with pytest.raises(BaseException) as raised:
        anyio.run(main)
    return raised.value
