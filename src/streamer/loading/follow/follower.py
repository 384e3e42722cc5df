"""Inputs that grow: lines that are added to a file, files that are added to a directory.

A file of lines is read on as it grows; a line counts when its newline has come. It is known by its
device, inode and first bytes: renamed (rotation), it is read on where it was, and what then has its
name is read from the beginning, as is a file that was cut short. While a file does not grow it is
closed. Any other file is read once, when it has stopped changing.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from streamer.concurrency.retry import RetryPolicy
from streamer.config import STDIN
from streamer.errors import RunFault, UsageError
from streamer.loading.follow.growing_file import SETTLED_SECONDS, Gone, GrowingFile
from streamer.loading.follow.positions import Positions
from streamer.loading.follow.rotation import Rotation
from streamer.loading.piped import is_piped
from streamer.loading.reading import read_items
from streamer.loading.sources import PACKED, Source, expand, read_bytes
from streamer.records import Item, Origin, Position

POLL_SECONDS = 0.5
TURN_ITEMS = 1024
"""Items read from one source before the others have their turn."""
MOST_OPEN = 64
"""Sources that are open at once; if there are more, each is closed after its turn."""


def check_paths(paths: Sequence[str]) -> None:
    """Return if `paths` can be followed: a directory may still be empty, a file must be there.

    :raises UsageError: one is not there.
    """
    for path in paths:
        if not Path(path).is_dir():
            expand([path])


@dataclass(slots=True)
class _Followed:
    """A source that is being read."""

    source: Source
    items: Iterator[Item | None]
    growing: GrowingFile | None = None
    last: Origin | None = None
    """Origin of the last item that was read."""


class Follower:
    """Reads everything that `paths` name, now and later."""

    def __init__(
        self,
        paths: Sequence[str],
        on_read: Callable[[int], None],
        begin: Sequence[Position],
        retries: RetryPolicy,
    ) -> None:
        """`begin`: where an earlier session stopped reading each source."""
        self._paths = paths
        self._on_read = on_read
        self._retries = retries
        self._positions = Positions(begin)
        self._rotation = Rotation(self._positions, retries, on_read, self._log_once)
        self._found: dict[str, Source] = {}
        """What there is, by name."""
        self._open: dict[str, _Followed] = {}
        self._begun: dict[str, int] = {}
        """Which sources were opened; the last one has the largest number."""
        self._numbers = itertools.count(1)
        self._is_crowded = False
        """Whether there are sources that must wait until others are closed."""
        self._done: set[str] = set()
        """Sources that are read only once, and have been."""
        self._missing: dict[str, float] = {}
        """Since when a path has named nothing; infinity once that was logged."""
        self._logged: set[str] = set()

    def items(self, row: int) -> Iterator[Item | None]:
        """Without end, numbered from `row`; None whenever nothing has come for a while.

        :raises RunFault: a source could not be read.
        """
        while True:
            before = row
            self._look_for_more()
            for followed in list(self._open.values()):
                for item in self._turn(followed, row):
                    yield item
                    row += 1
            if row == before:
                yield None
                self._retries.stopped.wait(POLL_SECONDS)

    def _turn(self, followed: _Followed, row: int) -> Iterator[Item]:
        """What has come from one source, up to `TURN_ITEMS`."""
        growing = followed.growing
        for number in range(row, row + TURN_ITEMS):
            try:
                item = next(followed.items)
            except StopIteration:
                if growing is None:
                    self._done.add(followed.source.name)
                self._close(followed)
                return
            except Gone:
                self._lose(followed)
                return
            except RunFault as fault:
                if not isinstance(fault.__cause__, FileNotFoundError):
                    raise
                self._lose(followed)
                return
            if item is None:
                break
            file, head = (growing.id, growing.head(item.origin.end)) if growing else (None, None)
            followed.last = replace(item.origin, row=number, file=file, head=head)
            yield replace(item, origin=followed.last)
        if growing and (growing.is_idle or (self._is_crowded and not growing.is_replaced)):
            self._close(followed)  # half a line is read again when it has grown

    def _lose(self, followed: _Followed) -> None:
        name = followed.source.name
        self._close(followed)
        if not self._retries.stopped.is_set():
            self._log_once(f"{name} vanished while it was read. It is read on when it is back")

    def _close(self, followed: _Followed) -> None:
        name = followed.source.name
        del self._open[name]
        if followed.last is not None:
            self._positions.put(Position.behind(followed.last))
        if followed.growing is not None:
            self._rotation.close(name, followed.growing)

    def _look_for_more(self) -> None:
        """Open sources that have grown or are new, the longest waiting first."""
        self._found = {source.name: source for source in self._expanded()}
        self._is_crowded = False
        for source in sorted(self._found.values(), key=lambda one: self._begun.get(one.name, 0)):
            if source.name in self._open or source.name in self._done:
                continue
            if len(self._open) >= MOST_OPEN:
                self._is_crowded = True
                return
            try:
                followed = self._begin(source)
            except (OSError, Gone):  # it went away again
                continue
            if followed is not None:
                self._open[source.name] = followed
                self._begun[source.name] = next(self._numbers)

    def _expanded(self) -> Iterator[Source]:
        """All that the paths name now."""
        seen = set()
        for path in self._paths:
            try:
                found = expand([path], self._log_once)
            except UsageError as error:  # nothing there yet, or a file between two names
                self._wait_for(path, error)
                continue
            self._missing.pop(path, None)
            for source in found:
                if source.where not in seen:
                    seen.add(source.where)
                    yield source

    def _wait_for(self, path: str, error: UsageError) -> None:
        """Log once that there is nothing at `path`, if that lasts."""
        now = time.monotonic()
        if now - self._missing.setdefault(path, now) >= SETTLED_SECONDS:
            self._missing[path] = math.inf
            self._retries.log("note", {"note": f"waiting for what is followed: {error}"})

    def _begin(self, source: Source) -> _Followed | None:
        """Read on in `source`, if there is anything to read."""
        if source.name == STDIN or "file" not in source.fs.protocol:
            return self._once(source)
        path = Path(source.path)
        if not _grows(source) or not path.is_file():
            is_settled = time.time() - path.stat().st_mtime > SETTLED_SECONDS
            return self._once(source) if is_settled else None
        opened = self._rotation.open(source, self._found)
        if opened is None:
            return None
        growing, begin = opened
        return _Followed(
            source, read_items(source, growing.pieces(begin.offset), 0, begin), growing
        )

    def _once(self, source: Source) -> _Followed | None:
        left = None if is_piped(source) else self._positions.of_name(source.name)
        if left is not None and left.ended:
            return None
        begin = left.offset if left else 0
        pieces = read_bytes(source, self._on_read, begin, retries=self._retries)
        return _Followed(source, read_items(source, pieces, 0, left))

    def _log_once(self, note: str) -> None:
        """Log it, once."""
        if note not in self._logged:
            self._logged.add(note)
            self._retries.log("note", {"note": note})


def _grows(source: Source) -> bool:
    """Whether it is lines: what is called .json is read as a whole, as is what is compressed."""
    return not source.name.endswith((*PACKED, ".json"))
