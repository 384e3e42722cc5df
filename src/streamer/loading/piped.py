"""A pipe that is fed again from its beginning: recognized by its first bytes, and skipped up to
where the run was."""

from collections.abc import Iterator
from pathlib import Path

from streamer.config import STDIN
from streamer.errors import UsageError
from streamer.loading.identity import hash_of
from streamer.loading.sources import Source, behind
from streamer.records import Position

HEAD_BYTES = 1024
"""How many first bytes identify a pipe; fewer if it has fewer."""


def is_piped(source: Source) -> bool:
    """Whether `source` can be read only once, from its beginning."""
    return source.name == STDIN or ("file" in source.fs.protocol and Path(source.path).is_fifo())


class Piped:
    """The content of a pipe, after the position where an earlier session stopped, if any."""

    def __init__(self, name: str, pieces: Iterator[bytes], left: Position | None) -> None:
        """`pieces`: the whole content of the pipe."""
        self._name = name
        self._pieces = pieces
        self._left = left
        self._first = b""
        self.head = _head(b"")
        """Number and hash of the first bytes so far."""

    def __iter__(self) -> Iterator[bytes]:
        """Its pieces; skipped ones are empty.

        :raises UsageError: its content is not that of the earlier session.
        """
        yield from behind(self._all(), self._left.offset if self._left else 0)

    def _all(self) -> Iterator[bytes]:
        size = 0
        for piece in self._pieces:
            size += len(piece)
            if len(self._first) < HEAD_BYTES:
                self._first = (self._first + piece)[:HEAD_BYTES]
                self.head = _head(self._first)
                self._refuse_unless(self._begins_as_it_did(), "begins otherwise")
            yield piece
        self._refuse_unless(self._left is None or size >= self._left.offset, "ended earlier")

    def _begins_as_it_did(self) -> bool:
        if self._left is None or self._left.head is None:
            return True
        length = int(self._left.head.partition(":")[0])
        return len(self._first) < length or _head(self._first[:length]) == self._left.head

    def _refuse_unless(self, same: bool, what: str) -> None:
        if not same:
            raise UsageError(
                f"the pipe {self._name} {what} than when the run was there. Feed it from its "
                f"beginning, or begin again beside the run with --fresh."
            )


def _head(first: bytes) -> str:
    return f"{len(first)}:{hash_of(first)}"
