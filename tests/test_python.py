"""The Python face."""

import asyncio
import logging
import signal
import threading

import pytest

import streamer
from streamer import RunConfig
from streamer.monitoring.library_warnings import LibraryWarnings


def test_a_run_is_a_call_again_and_again_and_also_where_a_loop_runs(tmp_path, capsys):
    settings = {"limit": 3, "progress": "none"}
    first = streamer.run(RunConfig(out=tmp_path / "1", **settings))

    async def notebook():
        return streamer.run(RunConfig(out=tmp_path / "2", **settings))

    second = asyncio.run(notebook())
    assert first.table("metrics") == second.table("metrics")
    assert first.manifest["status"] == "finished"
    assert capsys.readouterr().out == ""
    again = streamer.run(RunConfig(out=tmp_path / "1", **settings))
    assert again.manifest == first.manifest  # it was finished


def test_a_run_that_is_stopped_says_so(tmp_path):
    record = '{"prompt": "The sky is", "fact": "blue", "hallucination": "green"}\n'
    (tmp_path / "in.jsonl").write_text(record * 100_000)

    over = threading.Event()

    def stop() -> None:
        log = tmp_path / "RUN" / "log.jsonl"
        while not (log.exists() and "started" in log.read_text()):
            if over.wait(0.1):
                return
        if not over.wait(1):
            signal.raise_signal(signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    paths = [str(tmp_path / "in.jsonl")]
    try:
        with pytest.raises(KeyboardInterrupt, match="what was measured is in"):
            streamer.run(RunConfig(paths=paths, out=tmp_path / "RUN", progress="none"))
    finally:
        over.set()
    assert streamer.open_run(tmp_path / "RUN").manifest["status"] == "stopped"


def test_a_program_keeps_its_own_logging():
    mine, library = logging.getLogger("mine"), logging.getLogger("sae_lens")
    handler = logging.NullHandler()
    mine.addHandler(handler)
    before = list(library.handlers)
    heard = []
    with LibraryWarnings(lambda _, entries: heard.append(entries["message"])):
        assert mine.handlers == [handler]
        library.warning("something odd")
    assert heard == ["something odd"]
    assert library.handlers == before
    assert not [one for one in logging.getLogger().handlers if isinstance(one, LibraryWarnings)]
