"""Inputs that grow while they are read: lines, half lines, rotation, new files."""

import errno
import gzip
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import psutil
import pytest

import streamer
from streamer import RunFault, UsageError
from streamer.concurrency.retry import RetryPolicy
from streamer.loading import retrying
from streamer.loading.follow import follower as following
from streamer.loading.follow import growing_file as growing
from streamer.loading.follow import rotation
from streamer.loading.follow.follower import Follower, check_paths
from streamer.loading.follow.growing_file import GrowingFile
from streamer.records import Item, Position
from streamer.writing.event_log import EventLog
from support.processes import COMMAND, Popen, run, wait_for_start


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(following, "POLL_SECONDS", 0.01)
    for module in (following, growing):
        monkeypatch.setattr(module, "SETTLED_SECONDS", 0.05)


class Reader:
    """Reads what follows, and remembers where it is."""

    def __init__(self, *paths: Path, begin: tuple[Position, ...] = ()) -> None:
        self.events: list[dict] = []
        self.stops_waiting = False
        """Whether the run is stopped as soon as it waits for a file that fails."""
        self.retries = RetryPolicy(
            log=lambda event, entries: self.events.append({"event": event} | entries),
            on_wait=self._wait,
        )
        names = [str(path) for path in paths]
        self._items = Follower(names, lambda _: None, begin, self.retries).items(0)
        self.places = {place.key: place for place in begin}

    def _wait(self, reason: str | None) -> None:
        if reason and self.stops_waiting:
            self.retries.stopped.set()

    def read(self) -> list[str]:
        """All that has come."""
        found: list[Item] = []
        for item in islice(self._items, 10_000):
            if item is None:
                break
            found.append(item)
            self.places[item.origin.key] = Position.behind(item.origin)
        return [item.raw.decode() for item in found]

    def read_on(self, seconds: float = 1.0) -> list[str]:
        """All that comes, until for a while nothing does."""
        found, idle = [], 0
        deadline = time.monotonic() + seconds
        while idle < 5 or time.monotonic() < deadline:
            more = self.read()
            found += more
            idle = 0 if more else idle + 1
            deadline = time.monotonic() + seconds if more else deadline
        return found

    @property
    def notes(self) -> list[str]:
        return [event["note"] for event in self.events if event["event"] == "note"]

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
    assert max(place.position for place in reader.places.values()) == 6
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


def rotate(path: Path, name: str) -> Path:
    return path.rename(path.parent / name)


@pytest.mark.parametrize("end", ["\n", " \n\n", "  "])
@pytest.mark.parametrize("again", [False, True])
def test_a_rotated_file_that_ends_in_blanks_hands_over_to_the_new_one(again, end, tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n" + end)
    reader = Reader(path)
    assert reader.read_on(0.2) == ["1"]
    rotate(path, "in.jsonl.1")
    add(path, "2\n")
    reader = reader.again(path) if again else reader
    assert reader.read_on() == ["2"]
    assert reader.notes == []


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", ["in-1.jsonl", "zz.jsonl", "archive/in.jsonl"])
def test_half_a_line_at_the_end_of_a_rotated_file_that_is_followed_counts(name, again, tmp_path):
    path, archive = tmp_path / "in.jsonl", tmp_path / "archive"
    archive.mkdir()
    add(path, "1\nhalf")
    reader = Reader(tmp_path)
    assert reader.read_on(0.2) == ["1"]
    rotate(path, name)
    add(path, "2\n")
    reader = reader.again(tmp_path) if again else reader
    assert reader.read_on() == ["half", "2"]
    assert reader.notes == []
    add(tmp_path / name, "\n3\n")
    add(path, "4\n")
    assert sorted(reader.read_on()) == ["3", "4"]
    assert reader.again(tmp_path).read_on() == []


def test_a_file_that_was_read_on_by_its_new_name_is_not_read_again_by_its_old_one(tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n")
    reader = Reader(tmp_path)
    assert reader.read_on(0.2) == ["1"]
    renamed = rotate(path, "in-1.jsonl")
    add(renamed, "2\n")
    assert reader.read_on(0.2) == ["2"]
    add(path, "3\n")
    add(renamed, "4\n")
    assert sorted(reader.read_on()) == ["3", "4"]


def test_two_files_that_swap_their_names_are_read_on(tmp_path):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    add(a, "1\n")
    add(b, "2\n")
    reader = Reader(tmp_path)
    assert reader.read_on(0.2) == ["1", "2"]
    rotate(a, "c")
    rotate(b, "a.jsonl")
    rotate(tmp_path / "c", "b.jsonl")
    for first in (3, 5):
        add(a, f"{first}\n")
        add(b, f"{first + 1}\n")
        assert sorted(reader.read_on()) == [f"{first}", f"{first + 1}"]


def test_what_has_nothing_new_is_not_opened_again(tmp_path, monkeypatch):
    add(tmp_path / "a.jsonl", "1\n\n")
    add(tmp_path / "b.jsonl", "2\nhalf")
    reader = Reader(tmp_path)
    assert reader.read_on(0.3) == ["1", "2"]
    looks = []
    monkeypatch.setattr(GrowingFile, "_look", lambda *_: looks.append(1))
    assert reader.read_on(0.3) == []
    assert not looks


def test_the_same_inode_on_another_device_is_another_file(tmp_path):
    path = tmp_path / "volume" / "in.jsonl"
    path.parent.mkdir()
    add(path, "1\n")
    reader = Reader(path)
    assert reader.read() == ["1"]
    (place,) = reader.places.values()
    device, inode = path.stat().st_dev, path.stat().st_ino
    assert place.file == f"{device}:{inode}"
    other = replace(place, source=str(tmp_path / "other" / "in.jsonl"), file=f"{device}1:{inode}")
    assert Reader(path, begin=(other,)).read_on(0.2) == ["1"]
    assert Reader(path, begin=(other, place)).read_on(0.2) == []


@pytest.mark.parametrize("rotated", [False, True])
def test_a_file_is_found_again_when_its_device_has_another_number(rotated, tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n")
    reader = Reader(tmp_path)
    assert reader.read() == ["1"]
    (place,) = reader.places.values()
    before = replace(place, file="7" + place.file)
    add(path, "2\n")
    if rotated:
        rotate(path, "in-1.jsonl")
        add(path, "3\n")
    reader = Reader(tmp_path, begin=(before,))
    assert reader.read_on() == ["2", "3"][: 1 + rotated]
    assert reader.again(tmp_path).read_on() == []


def test_two_files_in_a_directory_may_have_one_inode_on_two_devices(tmp_path, monkeypatch):
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        add(path, f"{path.stem}1\n")
    ids = {path.stat().st_ino: f"{number}:12" for number, path in enumerate(paths)}
    for module in (growing, rotation):
        monkeypatch.setattr(module, "file_id", lambda stat: ids[stat.st_ino])
    reader = Reader(tmp_path)
    assert sorted(reader.read_on()) == ["a1", "b1"]
    for path in paths:
        add(path, f"{path.stem}2\n")
    assert sorted(reader.again(tmp_path).read_on()) == ["a2", "b2"]


def test_a_file_that_was_read_whole_and_replaced_is_no_loss(tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n")
    reader = Reader(path)
    assert reader.read_on(0.2) == ["1"]
    add(tmp_path / "new", "2\n")
    (tmp_path / "new").replace(path)
    assert reader.read_on(0.2) == ["2"]
    assert reader.notes == []


def test_what_comes_through_a_named_pipe_is_new(tmp_path):
    path = tmp_path / "in.jsonl"
    os.mkfifo(path)
    os.utime(path, (0, 0))
    reader = Reader(path)
    for text in ("1\n2\n", "3\n4\n5\n"):
        feeder = threading.Thread(target=path.write_text, args=(text,))
        feeder.start()
        found = []
        while feeder.is_alive() or not found:
            found += reader.read_on(0.3)
        assert found == text.split()
        reader = reader.again(path)


def test_more_files_than_can_be_open_are_read_in_turns(tmp_path):
    for number in range(300):
        add(tmp_path / f"{number:03}.jsonl", f"{number}\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 100, hard))
    try:
        reader = Reader(tmp_path)
        assert sorted(map(int, reader.read_on())) == list(range(300))
        for number in range(300):
            add(tmp_path / f"{number:03}.jsonl", f"{number}\nhalf")
        assert sorted(map(int, reader.read_on())) == list(range(300))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_where_many_wait_for_their_turn_a_rotated_file_is_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "MOST_OPEN", 1)
    path = tmp_path / "in.jsonl"
    add(tmp_path / "a.jsonl", "1\n")
    add(path, "2\nhalf")
    reader = Reader(tmp_path)
    assert reader.read_on(0.3) == ["1", "2"]
    rotate(path, "in.jsonl.1")
    add(path, "3\n")
    assert reader.read_on() == ["half", "3"]


def test_a_file_of_the_same_inode_and_size_but_another_beginning_is_read_anew(tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n2\n")
    reader = Reader(path)
    assert reader.read_on(0.3) == ["1", "2"]
    path.write_text("3\n4\n")
    assert reader.read_on(0.3) == ["3", "4"]
    reader = reader.again(path)
    path.write_text("5\n6\n")
    assert reader.read_on(0.3) == ["5", "6"]


def test_an_open_file_that_is_cut_short_and_has_grown_further_is_read_anew(tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n2\n")
    reader = Reader(path)
    assert reader.read() == ["1", "2"]
    path.write_text("3\n4\n5\n")
    assert reader.read_on(0.3) == ["3", "4", "5"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_growing_file_is_read_on_after_errors(is_open, code, tmp_path, monkeypatch):
    monkeypatch.setattr(retrying, "FIRST_SECONDS", 0.001)
    path = tmp_path / "in.jsonl"
    add(path, "1\nha")
    reader = Reader(path)
    assert (reader.read() if is_open else reader.read_on(0.3)) == ["1"]
    fail(monkeypatch, code, times=3)
    add(path, "lf\n2\n")
    assert reader.read_on(0.3) == ["half", "2"]
    assert [event["event"] for event in reader.events] == ["read retry"] * 3 + ["went on"]
    assert reader.events[0]["source"] == str(path)


def fail(monkeypatch: pytest.MonkeyPatch, code: int, times: int) -> None:
    """The next reads of growing files raise."""
    pread, left = os.pread, [code] * times

    def failing(*args: int) -> bytes:
        if left:
            raise OSError(left.pop(), "stumbled")
        return pread(*args)

    monkeypatch.setattr(growing.os, "pread", failing)


def test_a_growing_file_that_goes_on_failing_ends_the_run_with_source_and_place(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(retrying, "FIRST_SECONDS", 0.001)
    path = tmp_path / "in.jsonl"
    add(path, "1\n")
    reader = Reader(path)
    assert reader.read() == ["1"]
    fail(monkeypatch, errno.EIO, times=100)
    with pytest.raises(RunFault, match=r"in\.jsonl failed at byte 2: .*stumbled"):
        reader.read()
    assert len(reader.events) == retrying.RETRIES


def test_a_signal_ends_the_wait_for_a_file_that_fails(tmp_path, monkeypatch):
    add(tmp_path / "in.jsonl", "1\n")
    reader = Reader(tmp_path)
    assert reader.read() == ["1"]
    fail(monkeypatch, errno.EIO, times=100)
    begin = time.monotonic()
    reader.stops_waiting = True
    assert reader.read() == []
    assert time.monotonic() - begin < retrying.FIRST_SECONDS


def test_what_vanishes_is_waited_for_and_told_once(tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n")
    reader = Reader(path)
    assert reader.read_on(0.2) == ["1"]
    rotate(path, "away")
    assert reader.read_on(0.5) == []
    (note,) = reader.notes
    assert "waiting" in note
    assert str(path) in note
    add(tmp_path / "away", "2\n")
    rotate(tmp_path / "away", "in.jsonl")
    assert reader.read_on(0.2) == ["2"]


def test_a_compressed_file_that_vanishes_before_its_turn_ends_no_run(tmp_path, monkeypatch):
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(name[:1].encode()))
        os.utime(tmp_path / name, (0, 0))
    reader = Reader(tmp_path)
    items = reader._items
    assert next(items).raw == b"a"
    (tmp_path / "b.jsonl.gz").unlink()
    assert reader.read_on(0.2) == []
    (note,) = reader.notes
    assert "b.jsonl.gz vanished" in note


def test_what_is_told_before_there_is_a_log_waits_for_it(tmp_path):
    log = EventLog()
    names = [str(tmp_path / "in.jsonl")]
    items = Follower(names, lambda _: None, (), RetryPolicy(log=log.write)).items(0)
    time.sleep(0.1)
    for item in islice(items, 20):
        assert item is None
    log.open(tmp_path / "log.jsonl")
    log.close()
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["event"] == "note"


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
    process = Popen([*COMMAND, *command], cwd=tmp_path)
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
    process = Popen([*COMMAND, "resume", "RUN"], cwd=tmp_path)
    until(lambda: len(rows_of(out)) == 14)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert rows_of(out) == [f"log:{n}" for n in range(14)]
    refused = run(*command[:2], *command[3:], folder=tmp_path)
    assert "follow was True and is False" in refused.stderr
