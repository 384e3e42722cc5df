"""Inputs that grow while they are read: lines, half lines, new files, files cut short, pipes."""

import gzip
import os
import resource
import threading

import psutil

from streamer.loading.follow.growing_file import GrowingFile
from support.following import Reader, add


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


def test_what_has_nothing_new_is_not_opened_again(tmp_path, monkeypatch):
    add(tmp_path / "a.jsonl", "1\n\n")
    add(tmp_path / "b.jsonl", "2\nhalf")
    reader = Reader(tmp_path)
    assert reader.read_on() == ["1", "2"]
    looks = []
    monkeypatch.setattr(GrowingFile, "_look", lambda *_: looks.append(1))
    assert reader.read_on() == []
    assert not looks


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
            found += reader.read_on()
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


def test_a_file_of_the_same_inode_and_size_but_another_beginning_is_read_anew(tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n2\n")
    reader = Reader(path)
    assert reader.read_on() == ["1", "2"]
    path.write_text("3\n4\n")
    assert reader.read_on() == ["3", "4"]
    reader = reader.again(path)
    path.write_text("5\n6\n")
    assert reader.read_on() == ["5", "6"]


def test_an_open_file_that_is_cut_short_and_has_grown_further_is_read_anew(tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n2\n")
    reader = Reader(path)
    assert reader.read() == ["1", "2"]
    path.write_text("3\n4\n5\n")
    assert reader.read_on() == ["3", "4", "5"]
