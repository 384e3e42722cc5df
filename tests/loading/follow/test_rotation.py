"""Files that are renamed, replaced or swapped while they are read: each read once, whole."""

from dataclasses import replace

import pytest

from streamer.loading.follow import follower as following
from streamer.loading.follow import growing_file as growing
from streamer.loading.follow import rotation
from support.following import Reader, add, rotate


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
    assert max(one.position for one in reader.positions.values()) == 6
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


@pytest.mark.parametrize("end", ["\n", " \n\n", "  "])
@pytest.mark.parametrize("again", [False, True])
def test_a_rotated_file_that_ends_in_blanks_hands_over_to_the_new_one(again, end, tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n" + end)
    reader = Reader(path)
    assert reader.read_on() == ["1"]
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
    assert reader.read_on() == ["1"]
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
    assert reader.read_on() == ["1"]
    renamed = rotate(path, "in-1.jsonl")
    add(renamed, "2\n")
    assert reader.read_on() == ["2"]
    add(path, "3\n")
    add(renamed, "4\n")
    assert sorted(reader.read_on()) == ["3", "4"]


def test_two_files_that_swap_their_names_are_read_on(tmp_path):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    add(a, "1\n")
    add(b, "2\n")
    reader = Reader(tmp_path)
    assert reader.read_on() == ["1", "2"]
    rotate(a, "c")
    rotate(b, "a.jsonl")
    rotate(tmp_path / "c", "b.jsonl")
    for first in (3, 5):
        add(a, f"{first}\n")
        add(b, f"{first + 1}\n")
        assert sorted(reader.read_on()) == [f"{first}", f"{first + 1}"]


def test_the_same_inode_on_another_device_is_another_file(tmp_path):
    path = tmp_path / "volume" / "in.jsonl"
    path.parent.mkdir()
    add(path, "1\n")
    reader = Reader(path)
    assert reader.read() == ["1"]
    (position,) = reader.positions.values()
    device, inode = path.stat().st_dev, path.stat().st_ino
    assert position.file == f"{device}:{inode}"
    other = replace(
        position, source=str(tmp_path / "other" / "in.jsonl"), file=f"{device}1:{inode}"
    )
    assert Reader(path, begin=(other,)).read_on() == ["1"]
    assert Reader(path, begin=(other, position)).read_on() == []


@pytest.mark.parametrize("rotated", [False, True])
def test_a_file_is_found_again_when_its_device_has_another_number(rotated, tmp_path):
    path = tmp_path / "in.jsonl"
    add(path, "1\n")
    reader = Reader(tmp_path)
    assert reader.read() == ["1"]
    (position,) = reader.positions.values()
    before = replace(position, file="7" + position.file)
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
    assert reader.read_on() == ["1"]
    add(tmp_path / "new", "2\n")
    (tmp_path / "new").replace(path)
    assert reader.read_on() == ["2"]
    assert reader.notes == []


def test_where_many_wait_for_their_turn_a_rotated_file_is_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "MOST_OPEN", 1)
    path = tmp_path / "in.jsonl"
    add(tmp_path / "a.jsonl", "1\n")
    add(path, "2\nhalf")
    reader = Reader(tmp_path)
    assert reader.read_on() == ["1", "2"]
    rotate(path, "in.jsonl.1")
    add(path, "3\n")
    assert reader.read_on() == ["half", "3"]
