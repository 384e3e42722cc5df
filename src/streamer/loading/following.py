"""Inputs that grow: lines that are added to a file, files that are added to a directory.

A file of lines is kept open and read on as it grows; a line counts when its newline has come. When
another file takes its name (rotation), or it is cut short to be written anew, the old one is read
to its end before the new one is begun. Any other file is read once, when it has stopped changing.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import RawIOBase
from pathlib import Path

from streamer.config import STDIN
from streamer.errors import RunFault, UsageError
from streamer.loading.reading import read_items
from streamer.loading.sources import PACKED, READ_BYTES, Source, expand, read_bytes
from streamer.records import Item, Place

POLL_SECONDS = 0.5
SETTLED_SECONDS = 2.0
"""A file that is not lines is read when it was last changed so long ago."""
TURN_ITEMS = 1024
"""Read from one source before the others have their turn."""


def check_paths(paths: Sequence[str]) -> None:
    """Return if `paths` can be followed: a directory may still be empty, a file must be there.

    :raises UsageError: one is not there.
    """
    for path in paths:
        if not Path(path).is_dir():
            expand([path])


@dataclass(frozen=True, slots=True)
class _Followed:
    """A source that is being read."""

    items: Iterator[Item | None]
    inode: int | None


class Follower:
    """Everything that `paths` name, now and later."""

    def __init__(
        self, paths: Sequence[str], on_read: Callable[[int], None], begin: Sequence[Place]
    ) -> None:
        """`begin`: where sources were left that have been read from before."""
        self._paths = paths
        self._on_read = on_read
        self._left = {place.source: place for place in begin}
        self._open: dict[str, _Followed] = {}
        self._ended: set[str] = set()
        """Sources that have been read to their end once since we are here."""

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
        followed = self._open[name]
        for _ in range(TURN_ITEMS):
            try:
                item = next(followed.items)
            except StopIteration:
                del self._open[name]
                self._ended.add(name)
                return
            except OSError as error:
                raise RunFault(
                    f"reading {name} failed: {error}. Run again when it can be read."
                ) from error
            if item is None:
                return
            origin = replace(item.origin, inode=followed.inode)
            self._left[name] = Place.behind(origin)
            yield replace(item, origin=origin)

    def _look_for_more(self) -> None:
        for path in self._paths:
            try:
                found = expand([path])
            except UsageError:  # nothing there yet, or a file between two names
                continue
            for source in found:
                if source.name not in self._open:
                    begun = self._begin(source)
                    if begun is not None:
                        self._open[source.name] = begun

    def _begin(self, source: Source) -> _Followed | None:
        """Read on in `source`, if there is anything to read."""
        left = self._left.get(source.name)
        if source.name == STDIN or "file" not in source.fs.protocol:
            return self._read_once(source, None if source.name == STDIN else left, None)
        try:
            now = Path(source.path).stat()
        except OSError:
            return None
        if not _grows(source) or not stat.S_ISREG(now.st_mode):
            is_settled = time.time() - now.st_mtime > SETTLED_SECONDS
            return self._read_once(source, left, now.st_ino) if is_settled else None
        begin = Place(source.name, left.position if left else 0, 0, inode=now.st_ino)
        if left is not None and source.name not in self._ended:
            if left.inode == now.st_ino and left.offset <= now.st_size:
                begin = left
            elif (old := _renamed(source, left)) is not None:
                return _Followed(self._rest(old, source, left), left.inode)
        pieces = self._growing(Path(source.path), begin.offset)
        return _Followed(read_items(source, pieces, 0, begin), now.st_ino)

    def _read_once(self, source: Source, left: Place | None, inode: int | None) -> _Followed | None:
        if source.name in self._ended or (left is not None and left.ended):
            return None
        pieces = read_bytes(source, self._on_read, left.offset if left else 0)
        return _Followed(read_items(source, pieces, 0, left), inode)

    def _rest(self, path: Path, source: Source, left: Place) -> Iterator[Item | None]:
        """What the file that was rotated to `path` while nobody read it has behind `left`."""
        with path.open("rb", buffering=0) as file:
            file.seek(left.offset)
            yield from read_items(source, self._pieces(file), 0, left)

    def _growing(self, path: Path, begin: int) -> Iterator[bytes]:
        """The bytes of a file from `begin` on, an empty piece whenever there are no more; it ends
        when the file at `path` is another or was cut short."""
        with path.open("rb", buffering=0) as file:
            file.seek(begin)
            while True:
                yield from self._pieces(file)
                if _is_replaced(file, path):
                    yield from self._pieces(file)  # what came before it was replaced
                    return
                yield b""

    def _pieces(self, file: RawIOBase) -> Iterator[bytes]:
        while piece := file.read(READ_BYTES):
            self._on_read(len(piece))
            yield piece


def _grows(source: Source) -> bool:
    """Whether it is lines: what is called .json is read as a whole, as is what is compressed."""
    return not source.name.endswith((*PACKED, ".json"))


def _is_replaced(file: RawIOBase, path: Path) -> bool:
    own = os.fstat(file.fileno())
    if own.st_size < file.tell():
        return True
    try:
        there = path.stat()
    except OSError:  # renamed, and there is no new one yet
        return False
    return (there.st_ino, there.st_dev) != (own.st_ino, own.st_dev)


def _renamed(source: Source, left: Place) -> Path | None:
    """Where the file lies that was read up to `left`, if it is still beside `source`."""
    for path in Path(source.path).parent.iterdir():
        if path.stat().st_ino == left.inode:
            return path
    return None
