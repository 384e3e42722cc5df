"""From bytes to items: JSON Lines by their newlines, a JSON array by ijson, both in constant
memory.

Neither looks inside a record more than it must: `parsing` does, on the exact bytes of each, so that
a malformed record is lost alone wherever its end can still be found.
"""

import codecs
import re
from collections.abc import Generator, Iterator
from typing import Any

import ijson

from streamer.loading.compressed import DamagedSource
from streamer.loading.sources import Source
from streamer.records import Item, Origin, Position

RAW_LIMIT = 64 * 2**20
"""Most bytes kept of one item. Of a longer one, only the beginning and the size are kept."""
BLANK = b" \t\r\n"
ENDS = re.compile(rb"[}\],]")
"""What can end an element."""
CLOSERS = re.compile(rb"[}\]]")
"""What can end an element that is an object or an array."""
OPENER = re.compile(rb"[ \t\r\n,]*[{\[]")
"""How such an element begins after another one."""


def _harmless(byte: int) -> int:
    """What ijson sees of a byte. It only has to find the ends of elements; their exact bytes are
    parsed later, each by itself, so that bad text in one does not end the array."""
    if byte in b"dD":  # no literal or number has a d, and \\ud800 becomes a harmless \\uc800
        return byte - 1
    return byte if 0x20 <= byte < 0x80 or byte in BLANK else ord("?")


STRUCTURE = bytes(map(_harmless, range(256)))
LONG_NUMBER = re.compile(rb"[0-9][0-9.eE+-]{20,}")
"""ijson converts numbers, and fails on one with thousands of digits: it gets a 1 instead."""


def read_items(
    source: Source, pieces: Iterator[bytes], first_row: int, position: Position | None = None
) -> Iterator[Item | None]:
    """The items of one source, numbered from `first_row`. Blank lines are no items.

    If a `position` in the source is given, `pieces` and items begin there.

    An empty piece means that nothing has come for a while, and is passed on as None. If the rest
    of the source cannot be split any more (malformed array, damaged compression) it becomes one
    last item with a `problem`.
    """
    if position is not None:
        if position.in_array:
            spans = _elements(pieces, position.offset, within=True)
        else:
            spans = _lines(pieces, position.offset)
        yield from _items(spans, source, first_row, position.position, position.in_array)
        return
    try:
        pieces, start = yield from _peeled(pieces)
    except DamagedSource as error:
        problem = f"{error}: nothing could be read"
        yield Item(Origin(first_row, source.name, 0, 0, 0, ended=True), b"", 0, problem)
        return
    head = next(pieces, b"")
    in_array = head[:1] == b"[" and not source.is_lines
    spans = (_elements if in_array else _lines)(_prepended(head, pieces), start)
    yield from _items(spans, source, first_row, 0, in_array)


def _items(
    spans: Iterator["Span | None"], source: Source, row: int, position: int, in_array: bool
) -> Iterator[Item | None]:
    for span in spans:
        if span is None:
            yield None
            continue
        offset, end, raw, size, problem = span
        ended = problem is not None
        origin = Origin(row, source.name, position, offset, end, in_array, ended)
        yield Item(origin, raw, size, problem)
        row, position = row + 1, position + 1


Span = tuple[int, int, bytes, int, str | None]
"""offset, end, raw bytes (to RAW_LIMIT), size, problem"""


def _peeled(pieces: Iterator[bytes]) -> Generator[None, None, tuple[Iterator[bytes], int]]:
    """`pieces` without byte order mark and leading blanks, and how many bytes those were."""
    start = 0
    head = b""
    for piece in pieces:
        if not piece:
            yield None
        head += piece
        kept = head.removeprefix(codecs.BOM_UTF8).lstrip(BLANK)
        if kept and not codecs.BOM_UTF8.startswith(head):
            return _prepended(kept, pieces), start + len(head) - len(kept)
        if not kept:
            start, head = start + len(head), b""
    return iter([head] if head else []), start


def _prepended(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from pieces


class _Kept:
    """Bytes since some offset: all counted, the first RAW_LIMIT kept."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.size = 0
        self.raw = bytearray()

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if len(self.raw) < RAW_LIMIT:
            self.raw += data[: RAW_LIMIT - len(self.raw)]

    @property
    def end(self) -> int:
        return self.offset + self.size

    def span(self, problem: str | None = None) -> "Span":
        """Itself without blanks around it."""
        lead = len(self.raw) - len(self.raw.lstrip(BLANK))
        raw = bytes(self.raw.strip(BLANK))
        size = self.size - lead if self.size > RAW_LIMIT else len(raw)
        return self.offset + lead, self.end, raw, size, problem


def _lines(pieces: Iterator[bytes], start: int) -> Iterator[Span | None]:
    line = _Kept(start)
    try:
        for piece in pieces:
            if not piece:
                yield None
            begin = 0
            while (newline := piece.find(b"\n", begin)) >= 0:
                text, begin = piece[begin : newline + 1], newline + 1
                if not line.size and len(text) <= RAW_LIMIT:  # as most are: whole, in one piece
                    span = _line(text, line.offset)
                    line.offset += len(text)
                else:
                    line.add(text)
                    span = line.span()
                    line = _Kept(line.end)
                if span[2]:
                    yield span
            line.add(piece[begin:])
    except DamagedSource as error:
        yield line.span(f"{error}: the rest of the source is lost")
        return
    if line.raw.strip(BLANK):
        yield line.span()


def _line(text: bytes, offset: int) -> Span:
    """A whole line without blanks around it."""
    raw = text.strip(BLANK)
    return offset + text.find(raw[:1]), offset + len(text), raw, len(raw), None


def _elements(
    pieces: Iterator[bytes], start: int, *, within: bool = False
) -> Iterator[Span | None]:
    """The elements of a JSON array, whose [ is the first byte; or, if `within`, those after an
    element that ends at `start`: ijson is given a 0 in its stead.

    ijson is fed up to each byte that can end the element, so that an element is complete exactly
    when ijson emits it, and its bytes are those since the one before. A comma cannot end an
    object, so it is not searched for there: feeding ijson takes longer than searching.
    """
    emitted: list[Any] = ijson.sendable_list()
    parser = ijson.items_coro(emitted, "item")
    kept = _Kept(start)
    piece, end, ends = b"", 0, ENDS
    opening = -1 if within else start
    stand_in = within
    try:
        if within:
            parser.send(b"[0")
        for piece in pieces:
            if not piece:
                yield None
            begin = 0
            while begin < len(piece):
                if not kept.size:  # an element begins
                    nested = kept.offset != opening and not stand_in and OPENER.match(piece, begin)
                    ends = CLOSERS if nested else ENDS
                match = ends.search(piece, begin)
                end = match.end() if match else len(piece)
                part = piece[begin:end]
                kept.add(part)
                parser.send(LONG_NUMBER.sub(b"1", part.translate(STRUCTURE)))
                if emitted:
                    emitted.clear()
                    if not stand_in:
                        yield _element(kept, opening, delimiter=part[-1:]).span()
                    stand_in = False
                    kept = _Kept(kept.end)
                begin = end
        parser.close()
    except DamagedSource as error:
        yield _element(kept, opening).span(f"{error}: the rest of the array is lost")
    except ijson.JSONError as error:
        problem = f"malformed JSON array: {str(error).splitlines()[0].strip()}"
        kept.add(piece[end:])
        try:
            for rest in pieces:
                if not rest:
                    yield None
                kept.add(rest)
        except DamagedSource as damage:
            problem += f"; {damage}"
        yield _element(kept, opening).span(f"{problem}; from here on the array cannot be split")


def _element(kept: _Kept, opening: int, delimiter: bytes = b"") -> _Kept:
    """`kept` without the array's [ and commas before it and, if it is complete, the , or ] behind
    it, which may be its last byte, `delimiter`."""
    raw = bytes(kept.raw)
    if kept.offset == opening:
        raw = raw.removeprefix(b"[")
    raw = raw.lstrip(BLANK + b",")
    lead = len(kept.raw) - len(raw)
    element = _Kept(kept.offset + lead)
    element.size = kept.size - lead
    is_scalar = raw[:1] not in (b"{", b"[")
    if is_scalar and delimiter in (b",", b"]"):
        raw = raw.rstrip(BLANK + b",]")
        element.size -= 1
    element.raw = bytearray(raw)
    return element
