"""What every storage promises, whatever is behind it."""

import errno
import os
from pathlib import Path

import pyarrow as pa
import pytest

from streamer.writing.storage.base import UNPUBLISHED, DiskFull, Locked, Storage
from streamer.writing.storage.local import LocalStorage
from streamer.writing.storage.room import WaitForRoom


@pytest.fixture(params=[LocalStorage])
def storage(request, tmp_path) -> Storage:
    return request.param(tmp_path)


def content(storage: Storage, name: str) -> bytes:
    with storage.read(name) as file:
        return file.read()


def test_a_file_is_seen_when_it_is_published_and_then_all_of_it(storage):
    file = storage.create("metrics/a")
    file.sink.write(b"one")
    assert "metrics/a" not in storage.list("metrics")
    file.sink.write(b"two")
    file.finish()
    assert storage.list("metrics") == [f"metrics/a{UNPUBLISHED}"]
    storage.publish(file)
    assert storage.list("metrics") == ["metrics/a"]
    assert content(storage, "metrics/a") == b"onetwo"


def test_a_published_file_is_read_from_any_position(storage):
    storage.replace("a", b"0123456789")
    with storage.read("a") as file:
        assert file.size() == 10
        file.seek(7)
        assert file.read() == b"789"


def test_what_is_posted_is_there_and_what_was_before_is_not(storage):
    storage.post("status", b"a long one")
    storage.post("status", b"short")
    assert content(storage, "status") == b"short"
    assert storage.list() == ["status"]
    with pytest.raises(OSError, match="No such file"):
        storage.post("gone/status", b"nobody")


def test_a_discarded_file_leaves_nothing_and_takes_what_still_comes(storage):
    file = storage.create("metrics/a")
    file.sink.write(b"one")
    file.discard()
    file.sink.write(bytes(5_000_000))
    file.discard()
    assert storage.list("metrics") == []


def test_an_unpublished_file_is_begun_anew_or_removed(storage):
    storage.create("a").sink.write(b"a long one that was left")
    storage.replace("a", b"short")
    assert content(storage, "a") == b"short"
    storage.create("b")
    storage.remove(f"b{UNPUBLISHED}")
    assert storage.list() == ["a"]


def test_a_file_that_cannot_be_replaced_stays_as_it_was(storage, monkeypatch):
    storage.replace("manifest.json", b"before")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patches, pytest.raises(DiskFull):
        patches.setattr(os, "write", full)
        storage.replace("manifest.json", b"after")
    assert content(storage, "manifest.json") == b"before"
    assert storage.list() == ["manifest.json"]


def test_names_are_listed_folder_by_folder(storage):
    for name in ("top", "metrics/b", "metrics/a", "shards/s1/manifest.json", "shards/s0/.lock"):
        storage.replace(name, b"")
    assert storage.list() == ["top"]
    assert storage.folders() == ["metrics", "shards"]
    assert storage.list("metrics") == ["metrics/a", "metrics/b"]
    assert storage.folders("shards") == ["shards/s0", "shards/s1"]
    assert storage.list("shards/s1") == ["shards/s1/manifest.json"]
    assert storage.list("absent") == storage.folders("absent") == []


def test_what_is_not_there_is_not_read_nor_removed(storage):
    with pytest.raises(OSError, match="a"):
        storage.read("a")
    with pytest.raises(OSError, match="a"):
        storage.remove("a")


def test_a_folder_is_not_read_as_a_file(storage):
    storage.replace("metrics/a", b"one")
    with pytest.raises(IsADirectoryError, match="metrics"):
        storage.read("metrics")


def test_a_name_need_not_be_text(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    storage = LocalStorage(folder)
    storage.replace("a", b"one")
    assert content(storage, "a") == b"one"


def test_one_alone_holds_a_lock(storage):
    lock = storage.lock("shards/s0/.lock")
    storage.lock("shards/s1/.lock").release()
    with pytest.raises(Locked):
        storage.lock("shards/s0/.lock")
    lock.release()
    lock.release()
    storage.lock("shards/s0/.lock").release()


def test_a_folder_that_vanished_is_not_made_again(tmp_path):
    """Else a run would go on as if the parts in it had never been."""
    storage = LocalStorage(tmp_path)
    storage.replace("metrics/a", b"")
    (tmp_path / "metrics" / "a").unlink()
    (tmp_path / "metrics").rmdir()
    with pytest.raises(FileNotFoundError):
        storage.create("metrics/b")
    with pytest.raises(FileNotFoundError):
        LocalStorage(tmp_path / "gone").create("metrics/a")


def test_who_does_not_wait_is_told_at_once(small_disk: Path):
    with pytest.raises(OSError, match="No space left"), (small_disk / "fill").open("wb") as fill:
        while True:
            fill.write(bytes(4096))
            fill.flush()
    storage = LocalStorage(small_disk, WaitForRoom(3600))
    with pytest.raises(DiskFull, match="for 0 s"):
        storage.without_waiting().replace("manifest.json", bytes(100_000))


def test_pyarrow_writes_into_any_storage(storage):
    file = storage.create("a")
    with pa.ipc.new_file(file.sink, pa.schema([("x", pa.int64())])) as writer:
        writer.write(pa.record_batch({"x": range(100_000)}))
    file.finish()
    storage.publish(file)
    with storage.read("a") as found:
        assert pa.ipc.open_file(found).read_all()["x"].to_pylist() == list(range(100_000))
