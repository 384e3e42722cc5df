"""Whoever started a run hears of its progress through one interface; a screen is one of them."""

import json
from typing import Any

import anyio
import pytest

from streamer.computing.load import load_worker
from streamer.config import RunConfig
from streamer.errors import RunFault
from streamer.monitoring.snapshot import Snapshot
from streamer.running.prepare import prepare
from streamer.running.run import run as run_prepared
from streamer.writing.writer import Writer


class Recording:
    """Hears of everything, in order."""

    seconds = 0.01
    owns_terminal = False

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def begin(self, title: str) -> None:
        self.heard.append(("begin", title))

    def show(self, now: Snapshot) -> None:
        self.heard.append(("show", now.done))

    def print(self, line: str) -> None:
        self.heard.append(("print", line))

    def end(self, last: Snapshot) -> None:
        self.heard.append(("end", last.done))

    def abandon(self) -> None:
        raise AssertionError("the process does not end")


def test_a_run_is_heard_of_from_its_notes_to_its_last_record(
    tmp_path, embedded_worker, monkeypatch
):
    worker, progress = embedded_worker("contrast"), Recording()
    monkeypatch.setattr(worker.model, "notes", ["something to know"])
    config = RunConfig(out=tmp_path / "RUN", limit=20, batch_size=4)
    anyio.run(run_prepared, prepare(config, progress=progress), worker)
    note, begin, *shown, end = progress.heard
    assert note == ("print", "note: something to know")
    assert begin == ("begin", f"streamer · {config.model} · layers 1, 3, 5")
    assert {what for what, _ in shown} == {"show"}
    counts = [done for _, done in shown]
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
    assert end == ("end", 20)


@pytest.mark.parametrize(("std", "told"), [(0.015, 1), (0.1, 0)])
def test_noise_that_is_faint_beside_the_residuals_is_told_once(tmp_path, std, told):
    """Those of the embedded model are 2.2 a dimension, by their root mean square."""
    config, progress = (
        RunConfig(out=tmp_path / "RUN", limit=20, batch_size=4, noise_std=std),
        Recording(),
    )
    anyio.run(run_prepared, prepare(config, progress=progress), load_worker(config, "contrast"))
    notes = [line for what, line in progress.heard if what == "print"]
    assert len(notes) == told
    log = [json.loads(line) for line in (tmp_path / "RUN" / "log.jsonl").read_text().splitlines()]
    logged = [entry["note"] for entry in log if entry["event"] == "note"]
    assert [f"note: {note}" for note in logged] == notes
    for note in notes:
        assert "noise_std = 0.015 is under 1% of the root mean square" in note
        assert "at layer 1 in 12 of 12 passages" in note
        assert "--noise-scale relative" in note


@pytest.mark.parametrize(
    ("prompt", "separator", "told"), [("A: ", " ", 1), ("A: ", "", 0), ("A:", " ", 0)]
)
def test_a_blank_that_is_doubled_is_told_once(tmp_path, prompt, separator, told):
    lines = [{"prompt": f"Q{row}? {prompt}", "fact": "a", "hallucination": "b"} for row in range(9)]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    progress = Recording()
    config = RunConfig(paths=[str(path)], out=tmp_path / "RUN", batch_size=2, separator=separator)
    anyio.run(run_prepared, prepare(config, progress=progress), load_worker(config, "contrast"))
    notes = [line for what, line in progress.heard if what == "print"]
    assert len(notes) == told
    assert all(f"record 0 of {path} ends with a blank" in note for note in notes)


def test_a_run_that_breaks_off_is_heard_to_end(tmp_path, embedded_worker, monkeypatch):
    def broken(*_: Any) -> None:
        raise ValueError("a stage broke")

    monkeypatch.setattr(Writer, "add", broken)
    progress = Recording()
    config = RunConfig(out=tmp_path / "RUN", limit=20)
    with pytest.raises(RunFault, match="a stage broke"):
        anyio.run(run_prepared, prepare(config, progress=progress), embedded_worker("contrast"))
    assert [what for what, _ in progress.heard].count("begin") == 1
    assert progress.heard[-1][0] == "end"
