"""A tokenizer that fails on a text costs that record; a stage that breaks ends the run in order."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pyarrow as pa
import pytest
from tokenizers import Regex, normalizers

from streamer.computing.fault_isolation import FaultIsolation
from streamer.config import RunConfig
from streamer.errors import RunFault
from streamer.loading.loader import Loader
from streamer.planning.planner import Planner
from streamer.results.run import open_run
from streamer.running.prepare import prepare
from streamer.running.run import run as run_prepared
from streamer.writing.writer import Writer
from support.inputs import LINE, inputs, rejected
from support.instant import Instant
from support.processes import run_python
from support.runs import run_with


@pytest.fixture
def worker(embedded_worker) -> Instant:
    return Instant(embedded_worker("contrast"))


# the tokenizer


@pytest.fixture
def panics(worker) -> Iterator[None]:
    """Let the tokenizer panic, in Rust, on a river: a match of nothing breaks its byte level."""
    backend = worker.model.tokenizer.backend_tokenizer
    before = backend.normalizer
    backend.normalizer = normalizers.Replace(Regex("^(?=.*river)"), "x")
    yield
    backend.normalizer = before


@pytest.mark.usefixtures("panics")
def test_a_record_on_which_the_tokenizer_panics_is_rejected_alone(tmp_path, worker):
    with pytest.raises(BaseException) as raised:
        worker.model.tokenizer(["The river"])
    assert not isinstance(raised.value, Exception)
    run, _ = run_with(worker, **inputs(tmp_path, 100, guilty=(0, 70)))
    found = rejected(tmp_path / "RUN")
    assert [row["row"] for row in found] == [0, 70]
    assert found[0]["reason"].startswith("the tokenizer raised PanicException: index out of")
    assert run.table("metrics").num_rows == 98


class Raising:
    """A tokenizer that raises on some texts."""

    def __init__(self, tokenizer: Any, error: BaseException, word: str) -> None:
        self.tokenizer, self.error, self.word = tokenizer, error, word

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, texts: list[str], **settings: Any) -> Any:
        if any(self.word in text for text in texts):
            raise self.error
        return self.tokenizer(texts, **settings)


def test_a_record_on_which_the_tokenizer_raises_is_rejected_alone(tmp_path, worker, monkeypatch):
    raising = Raising(worker.model.tokenizer, TypeError("bad\ntext"), "river")
    monkeypatch.setattr(worker.model, "tokenizer", raising)
    run, _ = run_with(worker, **inputs(tmp_path, 10, guilty=(9,)))
    (one,) = rejected(tmp_path / "RUN")
    assert (one["row"], one["reason"]) == (9, "the tokenizer raised TypeError: bad")
    assert run.table("metrics").num_rows == 9


def test_a_tokenizer_that_raises_on_everything_breaks_the_run_off(tmp_path, worker, monkeypatch):
    raising = Raising(worker.model.tokenizer, TypeError("bad\ntext"), "")
    monkeypatch.setattr(worker.model, "tokenizer", raising)
    with pytest.raises(RunFault, match=r"the tokenizer raised TypeError: bad \(at record 0"):
        run_with(worker, **inputs(tmp_path, 10))
    assert rejected(tmp_path / "RUN") == []


def test_memory_that_runs_out_in_the_tokenizer_is_no_fault_of_the_text(
    tmp_path, worker, monkeypatch
):
    raising = Raising(worker.model.tokenizer, MemoryError(), "river")
    monkeypatch.setattr(worker.model, "tokenizer", raising)
    with pytest.raises(RunFault, match="the run broke off: MemoryError"):
        run_with(worker, **inputs(tmp_path, 10, guilty=(9,)))


# stages that break


def break_stage(stage: str, monkeypatch: pytest.MonkeyPatch, after: int = 4) -> None:
    """Let `stage` raise, with two lines to say, after so many calls."""
    calls = iter(range(1000))

    def breaks(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            if next(calls) >= after:
                raise pa.ArrowInvalid("broken\nsecond line")
            return original(*arguments, **settings)

        return call

    owner, name = {
        "load": (Loader, "next_chunk"),
        "plan": (Planner, "_first_batch"),
        "compute": (FaultIsolation, "feed"),
        "write": (Writer, "add"),
    }[stage]
    monkeypatch.setattr(owner, name, breaks(getattr(owner, name)))


@pytest.mark.parametrize("stage", ["load", "plan", "compute", "write"])
def test_a_stage_that_breaks_ends_the_run_with_one_line_and_keeps_what_is_finished(
    tmp_path, worker, monkeypatch, stage
):
    break_stage(stage, monkeypatch)
    with pytest.raises(RunFault, match=r"broke off: ArrowInvalid: broken\. Finished") as raised:
        run_with(worker, **inputs(tmp_path, 500), window=16, batch_size=16, part_rows=16)
    assert "\n" not in str(raised.value)
    run = open_run(tmp_path / "RUN")
    assert run.manifest["status"] == "failed"
    assert "broken" in run.manifest["cause"]
    assert not list(tmp_path.glob("RUN/*/*.tmp"))
    if stage != "load":  # what was read before may be on its way still
        rows = run.table("metrics")["row"].to_pylist()
        assert rows == list(range(len(rows)))


def test_a_stage_that_breaks_ends_the_run_though_a_pipe_is_silent(tmp_path, worker, monkeypatch):
    break_stage("write", monkeypatch, after=1)
    pipe, begun, ended = tmp_path / "in.jsonl", threading.Event(), threading.Event()
    os.mkfifo(pipe)
    launch = worker.launch
    monkeypatch.setattr(worker, "launch", lambda batch: (begun.set(), launch(batch))[1])

    def feed() -> None:
        with pipe.open("w") as file:
            for row in range(2):
                file.write(LINE.format("sky", row))
                file.flush()
                begun.wait(60)  # so that the next is a batch of its own
            ended.wait(60)  # nothing more comes, and the pipe is open

    feeder = threading.Thread(target=feed)
    feeder.start()
    prepared = prepare(RunConfig(paths=[str(pipe)], out=tmp_path / "RUN", progress="none"))

    async def main() -> None:
        with anyio.fail_after(20):
            await run_prepared(prepared, worker)

    try:
        with pytest.raises(RunFault, match="ArrowInvalid"):
            anyio.run(main)
    finally:
        ended.set()
        feeder.join()


COMMAND = """
import pyarrow as pa, sys
from streamer.writing.writer import Writer
from streamer.commands.cli import main

def add(self, result):
    raise pa.ArrowInvalid("broken\\nsecond line")

Writer.add = add
main(sys.argv[1:])
"""


def test_the_command_says_in_one_line_what_broke_and_exits_with_1(tmp_path):
    command = ["-c", COMMAND, "run", "--out", "RUN", "--progress", "none"]
    done = run_python(*command, folder=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: the run broke off: ArrowInvalid: broken. Finished parts are")
    assert json.loads((tmp_path / "RUN" / "manifest.json").read_text())["status"] == "failed"
