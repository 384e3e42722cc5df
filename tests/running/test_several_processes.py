"""Several processes work off ranges of one input into one run directory, as one run would."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.monitoring.status import read_status
from streamer.records import InputRange, Position
from streamer.results.run import Run
from streamer.running.prepare import prepare
from streamer.running.shards import Shard
from streamer.writing.storage.local import LocalStorage
from support.inputs import LINE
from support.processes import Popen
from support.runs import run_with

RECORDS, CUT, WINDOW = 96, 48, 16
TABLES = ("metrics", "rejected")
CHILD = """
import json, sys
import anyio
from streamer.config import RunConfig
from streamer.records import InputRange, Position
from streamer.running.prepare import prepare
from streamer.running.shards import Shard
from streamer.running.run import run

class Pipe:
    "Progress for the process that started this one: a JSON object a line."
    seconds, owns_terminal = 0.1, False
    def begin(self, title): self.send("begin", title)
    def show(self, now): self.send("show", now.done)
    def print(self, line): self.send("print", line)
    def end(self, last): self.send("end", last.done)
    def abandon(self): pass
    def send(self, what, value): print(json.dumps([what, value]), flush=True)

settings, name, begin, end, row = json.loads(sys.argv[1])
part = InputRange(begin and Position(*begin), end and Position(*end), row)
anyio.run(run, prepare(RunConfig(**settings), progress=Pipe(), shard=Shard(name, part)))
"""


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Of a run over records of many lengths, two of which are rejected."""
    lines = [LINE.format("sky " * (row * 7 % 11), row) for row in range(RECORDS)]
    lines[20] = lines[70] = "rubbish\n"
    (tmp_path / "in.jsonl").write_text("".join(lines))
    return {
        "paths": [str(tmp_path / "in.jsonl")],
        "kind": "contrast",
        "deterministic": True,
        "window": WINDOW,
        "batch_size": WINDOW,
        "part_rows": WINDOW,
    }


def cut_of(settings: dict[str, Any]) -> tuple[str, int, int]:
    """Where the input is cut in two: a `Position`."""
    (path,) = settings["paths"]
    lines = Path(path).read_bytes().splitlines(keepends=True)
    return path, CUT, sum(map(len, lines[:CUT]))


def start(name: str, settings: dict[str, Any], out: Path) -> subprocess.Popen[str]:
    """A process that works off the first ("s0") or second ("s1") part into `out`."""
    cut = cut_of(settings)
    part = {"s0": (None, cut, 0), "s1": (cut, None, CUT)}[name]
    argument = json.dumps([settings | {"out": str(out)}, name, *part])
    return Popen(
        [sys.executable, "-c", CHILD, argument],
        cwd=out.parent,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_in_one_directory_make_the_tables_of_one_run(tmp_path, settings):
    out = tmp_path / "RUN"
    processes = {name: start(name, settings, out) for name in ("s1", "s0")}
    heard = {
        name: [json.loads(line) for line in process.communicate(timeout=120)[0].splitlines()]
        for name, process in processes.items()
    }
    assert [process.returncode for process in processes.values()] == [0, 0]
    whole, _ = run_with(None, out=tmp_path / "WHOLE", **settings)
    together = Run(out, {})
    for table in TABLES:
        assert together.table(table).equals(whole.table(table))
    assert together.table("metrics").num_rows == RECORDS - 2

    assert {path.name for path in out.iterdir()} == {*TABLES, "shards"}
    for name in ("s0", "s1"):
        own = out / "shards" / name
        assert {path.name for path in own.iterdir()} == {
            ".lock", "log.jsonl", "manifest.json", "status.json",
        }  # fmt: skip
        sign, now = read_status(LocalStorage(own))
        assert (sign.status, now.done, now.total) == ("finished", CUT, CUT)
        assert heard[name][0][0] == "begin"
        assert heard[name][-1] == ["end", CUT]
        counts = json.loads((own / "manifest.json").read_bytes())["counts"]
        assert (counts["records"], counts["rejected"]) == (CUT, 1)


def test_a_shard_that_is_killed_is_resumed_beside_another(tmp_path, settings):
    out = tmp_path / "RUN"
    dying, living = start("s1", settings, out), start("s0", settings, out)
    deadline = time.monotonic() + 60
    while not list(out.glob("metrics/part-s1-*.parquet")):
        assert dying.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    dying.kill()
    assert dying.wait(60) == -signal.SIGKILL
    assert living.wait(60) == 0
    assert start("s1", settings, out).wait(60) == 0
    whole, _ = run_with(None, out=tmp_path / "WHOLE", **settings)
    for table in TABLES:
        assert Run(out, {}).table(table).equals(whole.table(table))


def test_a_shard_is_resumed_with_the_same_range_only(tmp_path, settings):
    out = tmp_path / "RUN"
    assert start("s1", settings, out).wait(60) == 0
    config = RunConfig(**settings, out=out)
    with pytest.raises(UsageError, match="it was to read the range"):
        prepare(config, shard=Shard("s1", InputRange(Position(*cut_of(settings)), None, CUT + 1)))


def test_a_shard_is_refused_where_a_whole_run_is_or_was(tmp_path, settings):
    out = tmp_path / "RUN"
    run_with(None, out=out, **settings)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    config, shard = RunConfig(**settings | {"out": out}), Shard("s0", InputRange())
    with pytest.raises(UsageError, match=r"not cut into shards \(.*RUN/manifest.json\)"):
        prepare(config, shard=shard)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    (out / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"not cut into shards .*metrics/part-00000.parquet"):
        prepare(config, shard=shard)


def test_a_whole_run_does_not_begin_where_shards_are_or_were(tmp_path, settings):
    out = tmp_path / "RUN"
    assert start("s0", settings, out).wait(60) == 0
    config = RunConfig(**settings | {"out": out})
    with pytest.raises(UsageError, match=r"holds shards of a run \(s0\).*another directory"):
        prepare(config)
    shutil.rmtree(out / "shards")
    with pytest.raises(UsageError, match=r"holds shards of a run \(s0\)"):
        prepare(config)


def test_a_shard_whose_folder_is_gone_does_not_begin_over_its_parts(tmp_path, settings):
    out = tmp_path / "RUN"
    for name in ("s0", "s1"):
        assert start(name, settings, out).wait(60) == 0
    shutil.rmtree(out / "shards" / "s1")
    config = RunConfig(**settings | {"out": out})
    with pytest.raises(UsageError, match=r"part-s1-00000.parquet is a part of the shard s1"):
        prepare(config, shard=Shard("s1", InputRange()))
    prepare(config, shard=Shard("s2", InputRange()))


@pytest.mark.parametrize("name", ["", "S0", "0", "s-0", "../s", "s0\n"])
def test_a_name_that_would_not_keep_shards_apart_is_refused(name):
    with pytest.raises(UsageError, match="a shard cannot be called"):
        Shard(name, InputRange())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "auto"}, "must agree on the kind"),
        ({"follow": True}, "cannot be cut into shards"),
        ({"out": None}, "give its path as out"),
    ],
)
def test_what_shards_cannot_agree_on_is_refused(tmp_path, settings, changes, message):
    config = RunConfig(**settings | {"out": tmp_path / "RUN"} | changes)
    with pytest.raises(UsageError, match=message):
        prepare(config, shard=Shard("s0", InputRange()))


@pytest.mark.parametrize("part", [("elsewhere.jsonl", None), (None, "elsewhere.jsonl")])
def test_a_range_that_is_not_of_the_inputs_is_refused(tmp_path, settings, part):
    begin, end = (name and Position(name, 0, 0) for name in part)
    config = RunConfig(**settings | {"out": tmp_path / "RUN"})
    with pytest.raises(UsageError, match=r"elsewhere.jsonl, which is not among its inputs: .*in"):
        prepare(config, shard=Shard("s0", InputRange(begin, end)))
