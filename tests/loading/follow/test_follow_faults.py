"""Growing files that fail, vanish or are not there: waited for, told, or the end of the run."""

import errno
import gzip
import json
import os
import time
from itertools import islice

import pytest

from streamer import RunFault, UsageError
from streamer.concurrency.retry import RetryPolicy
from streamer.loading import retrying
from streamer.loading.follow import growing_file as growing
from streamer.loading.follow.follower import Follower, check_paths
from streamer.writing.event_log import EventLog
from support.following import Reader, add, rotate


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_growing_file_is_read_on_after_errors(is_open, code, tmp_path, monkeypatch):
    monkeypatch.setattr(retrying, "FIRST_SECONDS", 0.001)
    path = tmp_path / "in.jsonl"
    add(path, "1\nha")
    reader = Reader(path)
    assert (reader.read() if is_open else reader.read_on()) == ["1"]
    fail(monkeypatch, code, times=3)
    add(path, "lf\n2\n")
    assert reader.read_on() == ["half", "2"]
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
    assert reader.read_on() == ["1"]
    rotate(path, "away")
    assert reader.read_on(0.5) == []
    (note,) = reader.notes
    assert "waiting" in note
    assert str(path) in note
    add(tmp_path / "away", "2\n")
    rotate(tmp_path / "away", "in.jsonl")
    assert reader.read_on() == ["2"]


def test_a_compressed_file_that_vanishes_before_its_turn_ends_no_run(tmp_path, monkeypatch):
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(name[:1].encode()))
        os.utime(tmp_path / name, (0, 0))
    reader = Reader(tmp_path)
    items = reader._items
    assert next(items).raw == b"a"
    (tmp_path / "b.jsonl.gz").unlink()
    assert reader.read_on() == []
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
