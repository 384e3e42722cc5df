"""Inputs that grow: lines that are added to a file, files that are added to a directory.

A file of lines is read on as it grows; a line counts when its newline has come. It is known by its
inode and its first bytes: renamed (rotation), it is read on where it was, and what then has its
name is read from the beginning, as is a file that was cut short. While a file does not grow it is
closed. Any other file is read once, when it has stopped changing.
"""

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import RawIOBase
from pathlib import Path
from typing import Any

from streamer.config import STDIN
from streamer.errors import RunFault, UsageError
from streamer.loading.reading import read_items
from streamer.loading.sources import PACKED, READ_BYTES, Source, expand, read_bytes
from streamer.records import Item, Place

POLL_SECONDS = 0.5
SETTLED_SECONDS = 2.0
"""What has not changed for so long is read, if it is no lines; closed, if it is; and ended, if
another file has its name."""
TURN_ITEMS = 1024
"""Read from one source before the others have their turn."""
HEAD_BYTES = 1024
"""By so many first bytes a file is known again."""


def check_paths(paths: Sequence[str]) -> None:
    """Return if `paths` can be followed: a directory may still be empty, a file must be there.

    :raises UsageError: one is not there.
    """
    for path in paths:
        if not Path(path).is_dir():
            expand([path])


class _Growing:
    """A file of lines, open."""

    def __init__(self, file: RawIOBase, path: Path, on_read: Callable[[int], None]) -> None:
        self.file = file
        self.inode = os.fstat(file.fileno()).st_ino
        self._path = path
        self._on_read = on_read
        self._grown = time.monotonic()
        self._head: str | None = None

    def pieces(self) -> Iterator[bytes]:
        """Its bytes from where it is on, an empty piece whenever there are no more. They end when
        it was cut short, or is replaced and has not grown for a while."""
        while True:
            if piece := self.file.read(READ_BYTES):
                self._grown = time.monotonic()
                self._on_read(len(piece))
                yield piece
            elif os.fstat(self.file.fileno()).st_size < self.file.tell() or (
                self.is_idle and self.is_replaced
            ):
                return
            else:
                yield b""

    @property
    def is_idle(self) -> bool:
        """Whether it has not grown for a while."""
        return time.monotonic() - self._grown >= SETTLED_SECONDS

    @property
    def is_replaced(self) -> bool:
        """Whether it was removed, or another file has its name."""
        own = os.fstat(self.file.fileno())
        try:
            there = self._path.stat()
        except OSError:
            return own.st_nlink == 0
        return (there.st_ino, there.st_dev) != (own.st_ino, own.st_dev)

    def head(self, offset: int) -> str:
        """A hash of what it begins with, up to `offset` at most."""
        if self._head is not None:
            return self._head
        found = _head(self.file, offset)
        if offset >= HEAD_BYTES:
            self._head = found
        return found


@dataclass(frozen=True, slots=True)
class _Followed:
    """A source that is being read."""

    items: Iterator[Item | None]
    growing: _Growing | None = None


class Follower:
    """Everything that `paths` name, now and later."""

    def __init__(
        self,
        paths: Sequence[str],
        on_read: Callable[[int], None],
        begin: Sequence[Place],
        log: Callable[[str, dict[str, Any]], None] = lambda *_: None,
    ) -> None:
        """`begin`: where sources were left that have been read from before."""
        self._paths = paths
        self._on_read = on_read
        self._log = log
        self._left = {place.key: place for place in begin}
        self._positions = {place.source: place.position for place in begin}
        self._open: dict[str, _Followed] = {}
        self._done: set[str] = set()
        """Sources that are read once, and were."""
        self._told: set[str] = set()

    def items(self, row: int) -> Iterator[Item | None]:
        """Without end, numbered from `row`; None whenever nothing has come for a while.

        :raises RunFault: a source could not be read.
        """
        while True:
            before = row
            self._look_for_more()
            for name in list(self._open):
                for item in self._turn(name):
                    yield replace(item, origin=replace(item.origin, row=row))
                    row += 1
            if row == before:
                yield None
                time.sleep(POLL_SECONDS)

    def _turn(self, name: str) -> Iterator[Item]:
        """What has come from one source, up to `TURN_ITEMS`."""
        items, growing = self._open[name].items, self._open[name].growing
        for _ in range(TURN_ITEMS):
            try:
                item = next(items)
            except StopIteration:
                self._close(name)
                return
            except OSError as error:
                raise RunFault(
                    f"reading {name} failed: {error}. Run again when it can be read."
                ) from error
            if item is None:
                if growing is not None and growing.is_idle:
                    self._close(name)  # half a line is read again when it has grown
                return
            origin = item.origin
            if growing is not None:
                origin = replace(origin, inode=growing.inode, head=growing.head(origin.end))
            place = Place.behind(origin)
            self._left.pop(place.key, None)
            self._left[place.key] = place  # the last of a name is the last that had it
            self._positions[name] = place.position
            yield replace(item, origin=origin)

    def _close(self, name: str) -> None:
        growing = self._open.pop(name).growing
        if growing is None:
            self._done.add(name)
        else:
            growing.file.close()

    def _look_for_more(self) -> None:
        for path in self._paths:
            try:
                found = expand([path], self._tell)
            except UsageError:  # nothing there yet, or a file between two names
                continue
            for source in found:
                if source.name not in self._open and source.name not in self._done:
                    begun = self._begin(source)
                    if begun is not None:
                        self._open[source.name] = begun

    def _begin(self, source: Source) -> _Followed | None:
        """Read on in `source`, if there is anything to read."""
        left = self._last_of(source.name)
        if source.name == STDIN or "file" not in source.fs.protocol:
            return self._read_once(source, None if source.name == STDIN else left)
        path = Path(source.path)
        try:
            now = path.stat()
            if not _grows(source) or not stat.S_ISREG(now.st_mode):
                is_settled = time.time() - now.st_mtime > SETTLED_SECONDS
                return self._read_once(source, left) if is_settled else None
            if left is not None and left.inode not in (None, now.st_ino):
                path = self._renamed(path, left) or path
            known = self._left.get(path.stat().st_ino)
            if path.stat().st_size == (known.offset if known else 0):
                return None  # nothing new
            file = path.open("rb", buffering=0)
        except OSError:  # it went away again
            return None
        growing = _Growing(file, Path(source.path), self._on_read)
        begin = self._place(source, growing)
        if begin is None:
            file.close()
            return None
        file.seek(begin.offset)
        return _Followed(read_items(source, growing.pieces(), 0, begin), growing)

    def _last_of(self, name: str) -> Place | None:
        """Where the file was left that was last read by this name."""
        places = (place for place in reversed(self._left.values()) if place.source == name)
        return next(places, None)

    def _place(self, source: Source, growing: _Growing) -> Place | None:
        """Where to begin: where the file was left, or at its beginning if it is new; None if it is
        open by another name."""
        if any(
            other.growing is not None and other.growing.inode == growing.inode
            for other in self._open.values()
        ):
            return None
        known = self._left.get(growing.inode)
        size = os.fstat(growing.file.fileno()).st_size
        if known and known.offset <= size and growing.head(known.offset) == known.head:
            return replace(known, source=source.name)
        return Place(source.name, self._positions.get(source.name, 0), 0)

    def _renamed(self, path: Path, left: Place) -> Path | None:
        """Where the file lies that was left by the name `path`, if more has come to it."""
        for other in path.parent.iterdir():
            with contextlib.suppress(OSError):
                there = other.stat()
                if there.st_ino == left.inode:
                    return other if there.st_size > left.offset else None
        self._tell(
            f"{path} was replaced, and the file that had its name is gone: what it had behind "
            f"byte {left.offset:,} could not be read, if there was any"
        )
        return None

    def _read_once(self, source: Source, left: Place | None) -> _Followed | None:
        if left is not None and left.ended:
            return None
        pieces = read_bytes(source, self._on_read, left.offset if left else 0)
        return _Followed(read_items(source, pieces, 0, left))

    def _tell(self, note: str) -> None:
        """Log it, once."""
        if note not in self._told:
            self._told.add(note)
            self._log("note", {"note": note})


def _head(file: RawIOBase, offset: int) -> str:
    first = os.pread(file.fileno(), min(offset, HEAD_BYTES), 0)
    return hashlib.blake2b(first, digest_size=16).hexdigest()


def _grows(source: Source) -> bool:
    """Whether it is lines: what is called .json is read as a whole, as is what is compressed."""
    return not source.name.endswith((*PACKED, ".json"))
