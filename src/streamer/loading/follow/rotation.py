"""Which file is to be read by a name, though files are renamed, replaced and cut short.

A file is read by the name that it was first read by, as long as that name is followed and no other
file has been begun by it. A file that lost its name is read until it has not grown for a while;
then the next is begun.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from streamer.concurrency.retry import RetryPolicy
from streamer.loading.follow.growing_file import GrowingFile, State, file_id, state_of
from streamer.loading.follow.positions import Positions
from streamer.loading.sources import Source
from streamer.records import Position


class Rotation:
    """What is known of files of lines, open or not. `log` takes notes of lost bytes."""

    def __init__(
        self,
        positions: Positions,
        retries: RetryPolicy,
        on_read: Callable[[int], None],
        log: Callable[[str], None],
    ) -> None:
        self._positions = positions
        self._retries = retries
        self._on_read = on_read
        self._log = log
        self._open: set[str] = set()
        self._read_to: dict[str, State] = {}
        """How files were when there was no more to read in them."""
        self._over: dict[str, State] = {}
        """The same of those that had ended: half a line at the end was read, too."""

    def open(
        self, source: Source, found: Mapping[str, Source]
    ) -> tuple[GrowingFile, Position] | None:
        """The file to be read on by the name of `source`, and from where; None if there is nothing
        to read, or it is read by another name. `found`: all names there are.

        :raises OSError: it went away meanwhile.
        :raises Gone: likewise.
        :raises RunFault: it could not be read.
        """
        path, name = Path(source.path), source.name
        now = path.stat()
        file, state = file_id(now), state_of(now)
        if file in self._open:
            return None
        left, known = self._positions.owned_by(name), self._positions.of_file(file, name)
        known = [one for one in known if one.file == file or not _is_there(one, found)]
        if left is not None and left not in known:
            growing = self._renamed(path, left, found)
            if growing is not None:
                return self._begin(name, growing, [left])
        elif self._read_to.get(file) == state:
            return None
        if any(self._is_claimed(one, name, found) for one in known):
            return None
        growing = GrowingFile(file, path, path, self._retries, self._on_read)
        _, begin = opened = self._begin(name, growing, known)
        if begin.offset < growing.size:
            return opened
        growing.read_to = growing.state  # as of most files when a run goes on
        self.close(name, growing)
        return None

    def close(self, name: str, growing: GrowingFile) -> None:
        """Remember how far the file was read by `name`, and close it."""
        growing.close()
        self._open.discard(growing.id)
        left = self._positions.of_name(name)
        if growing.is_cut and left is not None:
            self._positions.put(
                Position(name, left.position, 0, file=growing.id, head=growing.head(0))
            )
        if growing.read_to is not None:
            self._read_to[growing.id] = growing.read_to
            if growing.is_over:
                self._over[growing.id] = growing.read_to

    def _begin(
        self, name: str, growing: GrowingFile, known: list[Position]
    ) -> tuple[GrowingFile, Position]:
        """Begin where it was left, or at its beginning if it is new. From now on it is read by
        this name."""
        self._open.add(growing.id)
        offsets = [one.offset for one in known if growing.begins_like(one)]
        offset = max(offsets, default=0)
        left = self._positions.of_name(name)
        position = left.position if left else 0
        begin = Position(name, position, offset, file=growing.id, head=growing.head(offset))
        self._positions.put(begin)
        return growing, begin

    def _is_claimed(self, position: Position, name: str, found: Mapping[str, Source]) -> bool:
        """Whether the file of `position` is for another name to read on."""
        other = position.source
        return other != name and other in found and self._positions.owned_by(other) == position

    def _renamed(
        self, path: Path, left: Position, found: Mapping[str, Source]
    ) -> GrowingFile | None:
        """The file that was left by the name `path`, if it has not ended."""
        elsewhere = (Path(source.path) for source in found.values())
        for other, now in _files([*path.parent.iterdir(), *elsewhere]):
            if now.st_ino != left.inode:
                continue
            file = file_id(now)
            if self._over.get(file) == state_of(now):
                return None
            growing = GrowingFile(file, other, path, self._retries, self._on_read)
            if growing.begins_like(left):
                return growing
            growing.close()
        if left.file in self._read_to and self._read_to[left.file][0] == left.offset:
            return None  # there was nothing more in it
        self._log(
            f"{path} was replaced, and the file that had its name is gone: what it had behind "
            f"byte {left.offset:,} could not be read, if there was any"
        )
        return None


def _is_there(position: Position, found: Mapping[str, Source]) -> bool:
    """Whether the file of `position` still has its name: then no other file is it, even if it has
    the same inode."""
    source = found.get(position.source)
    try:
        return source is not None and file_id(Path(source.path).stat()) == position.file
    except OSError:
        return False


def _files(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Those that are files of this machine."""
    for path in paths:
        with contextlib.suppress(OSError):  # it leads nowhere
            now = path.stat()
            if stat.S_ISREG(now.st_mode):
                yield path, now
