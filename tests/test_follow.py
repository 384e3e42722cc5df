"""Inputs that grow while they are read: lines, half lines, rotation, new files."""

import gzip
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import psutil
import pytest

import streamer
from processes import COMMAND, run, wait_for_start
from streamer import UsageError
from streamer.loading import following
from streamer.loading.following import Follower, check_paths
from streamer.records import Item, Place


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(following, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(following, "SETTLED_SECONDS", 0.05)


class Reader:
    """Reads what follows, and remembers where it is."""

    def __init__(self, *paths: Path, begin: tuple[Place, ...] = ()) -> None:
        self._items = Follower([str(path) for path in paths], lambda _: None, begin).items(0)
        self.places: dict[str, Place] = {}

    def read(self) -> list[str]:
        """All that has come."""
        found: list[Item] = []
        for item in islice(self._items, 10_000):
            if item is None:
                break
            found.append(item)
            self.places[item.origin.source] = Place.behind(item.origin)
        return [item.raw.decode() for item in found]

    def read_on(self, seconds: float = 1.0) -> list[str]:
        """All that comes for a while."""
        found = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found += self.read()
        return found

    def again(self, *paths: Path) -> "Reader":
        """Another, that goes on from here."""
        return Reader(*paths, begin=tuple(self.places.values()))


def add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_half_written_line_waits_for_its_end(tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n2\n3")
    reader = Reader(path)
    assert reader.read() == ["1", "2"]
    assert reader.read() == []
    add(path, "45")
    assert reader.read() == []
    add(path, "6\n7\n")
    assert reader.read() == ["3456", "7"]


def test_an_empty_file_keeps_no_other_waiting(tmp_path):
    add(tmp_path / "a.jsonl", "")
    add(tmp_path / "b.jsonl", "1\n")
    reader = Reader(tmp_path)
    assert reader.read() == ["1"]
    add(tmp_path / "a.jsonl", "2\n")
    assert reader.read() == ["2"]


@pytest.mark.parametrize("again", [False, True])
def test_a_rotated_file_is_read_to_its_end_before_the_new_one(again, tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n2\n")
    reader = Reader(path)
    assert reader.read() == ["1", "2"]
    add(path, "3\n")
    path.rename(tmp_path / "in.jsonl.1")
    reader = reader.again(path) if again else reader  # or it happened while nobody read
    add(path, "5\n")
    add(tmp_path / "in.jsonl.1", "4\nlast without newline")  # who writes notices late
    assert reader.read_on() == ["3", "4", "last without newline", "5"]
    assert reader.places[str(path)].position == 6
    add(path, "6\n")
    assert reader.again(path).read_on() == ["6"]


def test_a_file_that_is_renamed_among_those_that_are_followed_is_not_read_twice(tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n")
    reader = Reader(tmp_path)
    assert reader.read() == ["1"]
    path.rename(tmp_path / "in-1.jsonl")
    add(path, "2\n")
    assert reader.read_on() == ["2"]
    add(tmp_path / "in-1.jsonl", "3\n")
    assert reader.read_on() == ["3"]
    assert reader.again(tmp_path).read_on() == []


def test_files_that_do_not_grow_are_not_kept_open(tmp_path):
    for number in range(50):
        add(tmp_path / f"{number}.jsonl", f"{number}\n")
    before = psutil.Process().num_fds()
    reader = Reader(tmp_path)
    assert len(reader.read_on()) == 50
    assert psutil.Process().num_fds() < before + 10
    add(tmp_path / "7.jsonl", "7 again\nhalf")
    assert reader.read_on() == ["7 again"]
    add(tmp_path / "7.jsonl", " a line\n")
    assert reader.read_on() == ["half a line"]


def test_a_file_of_the_same_inode_but_another_beginning_is_read_anew(tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n2\n")
    reader = Reader(path)
    assert reader.read() == ["1", "2"]
    path.write_text("3\n4\n5\n")  # cut short and grown further, between two looks
    assert reader.again(path).read_on() == ["3", "4", "5"]


def test_a_file_that_is_cut_short_is_read_anew(tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n2\n")
    reader = Reader(path)
    assert reader.read() == ["1", "2"]
    path.write_text("3\n")
    assert reader.read_on() == ["3"]
    assert reader.again(path).read_on() == []


def test_a_neighbour_that_leads_nowhere_does_not_matter(tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n")
    reader = Reader(path)
    assert reader.read() == ["1"]
    path.rename(tmp_path / "gone")
    (tmp_path / "gone").unlink()
    (tmp_path / ".#in.jsonl").symlink_to(tmp_path / "nowhere")
    add(path, "2\n")
    assert reader.again(path).read_on() == ["2"]


def test_new_files_are_found_and_compressed_and_json_files_read_once_they_are_whole(tmp_path):
    reader = Reader(tmp_path)
    assert reader.read() == []
    (tmp_path / "b.json").write_text('[1, {"a": 2}]')
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b"3\n4"))
    assert reader.read() == []  # they may still be written
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    assert reader.read() == ["1", '{"a": 2}', "3", "4"]
    assert reader.read() == []
    add(tmp_path / "d.jsonl", "5\n")
    assert reader.again(tmp_path).read_on() == ["5"]


def test_a_path_that_is_not_there_is_a_mistake(tmp_path):
    check_paths([str(tmp_path)])
    with pytest.raises(UsageError, match="nothing to read at"):
        check_paths([str(tmp_path / "in.jsonl")])


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def record(n: int) -> str:
    return json.dumps({"prompt": f"Number {n} is", "fact": "one", "hallucination": "two"}) + "\n"


def rows_of(path: Path) -> list[str]:
    """The ids of all rows in finished parts."""
    if not list(path.glob("metrics/part-*.parquet")):
        return []
    return streamer.open_run(path).table("metrics")["id"].to_pylist()


def test_the_command_sits_behind_another_program_and_goes_on_after_a_stop(tmp_path):
    path, out = tmp_path / "log.jsonl", tmp_path / "RUN"
    add(path, "".join(map(record, range(10))) + record(10)[:20])
    command = ["run", "log.jsonl", "--follow", "--out", "RUN", "--part-seconds", "0.5"]
    process = subprocess.Popen([*COMMAND, *command], cwd=tmp_path)
    wait_for_start(process, tmp_path)
    until(lambda: len(rows_of(out)) == 10)
    add(path, record(10)[20:] + record(11))
    until(lambda: len(rows_of(out)) == 12)
    path.rename(tmp_path / "log.jsonl.1")
    add(path, record(12))
    until(lambda: len(rows_of(out)) == 13)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    add(path, record(13))
    process = subprocess.Popen([*COMMAND, "resume", "RUN"], cwd=tmp_path)
    until(lambda: len(rows_of(out)) == 14)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert rows_of(out) == [f"log:{n}" for n in range(14)]
    refused = run(*command[:2], *command[3:], folder=tmp_path)
    assert "follow was True and is False" in refused.stderr
