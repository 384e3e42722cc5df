"""What flows from stage to stage: records (here), and batches of them (`batches.py`). Plain data:
frozen and slotted, independent of every stage.

Item ─parse▶ Record ─tokenize▶ TokenizedRecord ─plan▶ Batch ─compute▶ Result ─▶ rows
     └─────────────┴─▶ Rejection ──────────────────────────────────────────▶ rejected rows
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from streamer.config import KINDS, Kind

Carried: TypeAlias = str | int | float | bool | None

PASSAGES: dict[Kind, tuple[str, ...]] = {
    kind: tuple(parts.values()) for kind, parts in KINDS.items()
}
"""The passages of each kind of record, in column order."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record stood in the input."""

    row: int
    """Position among all records of the run, good and bad, from 0."""
    source: str
    """The file, URL or `-` it was read from."""
    position: int
    """Position within that source, from 0."""
    offset: int
    """Byte offset of its first byte in the (decompressed) source."""
    end: int
    """Byte offset just after it: where reading would go on."""
    in_array: bool = False
    """Whether it is an element of a JSON array, rather than a line."""
    ended: bool = False
    """Whether the rest of the source after it is lost."""
    file: str | None = None
    """Device and inode of a followed file: its name may pass to another file. Otherwise None."""
    head: str | None = None
    """A hash of the first bytes of a followed file or a pipe. Otherwise None."""

    @property
    def key(self) -> str:
        """Its source; for a followed file, the file's id, which a rename does not change."""
        return self.file or self.source


@dataclass(frozen=True, slots=True)
class Position:
    """Where in the input reading goes on."""

    source: str
    position: int
    """How many records of that source were read."""
    offset: int
    """Byte offset in the (decompressed) source."""
    in_array: bool = False
    """Whether that is inside a JSON array, after an element."""
    ended: bool = False
    """Whether the rest of that source was lost."""
    file: str | None = None
    """Device and inode of a followed file. Otherwise None."""
    head: str | None = None
    """A hash of the first bytes, up to the offset at most, of a followed file or a pipe."""

    @property
    def inode(self) -> int | None:
        """The file's inode alone: devices may be renumbered by a reboot."""
        return None if self.file is None else int(self.file.partition(":")[2])

    @property
    def key(self) -> str:
        """Its source; for a followed file, the file's id, which a rename does not change."""
        return self.file or self.source

    @classmethod
    def behind(cls, origin: Origin) -> Self:
        """The position just after the record of `origin`."""
        return cls(
            origin.source,
            origin.position + 1,
            origin.end,
            origin.in_array,
            origin.ended,
            origin.file,
            origin.head,
        )


@dataclass(frozen=True, slots=True)
class InputRange:
    """A range of the input (the records of all sources in order), read by one of several
    processes."""

    begin: Position | None = None
    """Where its first record is; None: the first of the input."""
    end: Position | None = None
    """Where the first record after it is; None: the range extends to the end of the input."""
    first_row: int = 0
    """Number of its first record among all records of the input."""


@dataclass(frozen=True, slots=True)
class Item:
    """One element of the input as bytes, not yet understood."""

    origin: Origin
    raw: bytes
    """Its bytes; at most the limit that the reader was given, so possibly only its beginning."""
    size: int
    """How many bytes it has in the source."""
    problem: str | None = None
    """Why it cannot be a record, if that was found while reading."""


@dataclass(frozen=True, slots=True)
class Record:
    """One input object that has all its fields, with the right types."""

    origin: Origin
    raw: bytes
    id: str
    carried: tuple[Carried, ...]
    """Values of the carried columns, in the order in which the configuration declares them."""
    texts: tuple[str, ...]
    """One text a passage, in the order of `PASSAGES[kind]`."""


@dataclass(frozen=True, slots=True)
class TokenizedRecord:
    """A record as the model will read it."""

    origin: Origin
    raw: bytes
    id: str
    carried: tuple[Carried, ...]
    tokens: tuple[npt.NDArray[np.int32], ...]
    """Token ids of each passage, BOS included where the SAEs want it."""
    truncated: bool = False
    """Whether it was longer than the model's context."""

    @property
    def longest(self) -> int:
        """Tokens of its longest passage."""
        return max(len(passage) for passage in self.tokens)

    @property
    def key(self) -> int:
        """A number made of the token ids alone, the same on every machine, in every order.

        It stands for the record wherever something has to be drawn for it (the noise): equal texts
        have equal keys, whatever their id or position.
        """
        key = 0
        for passage in self.tokens:
            key = zlib.crc32(b"\xff\xff\xff\xff", zlib.crc32(passage.astype("<i4").tobytes(), key))
        return key


@dataclass(frozen=True, slots=True)
class Rejection:
    """An input record that could not be processed, and why."""

    origin: Origin
    reason: str
    """What is wrong; after the first colon, if there is one, the details of this record."""
    raw: bytes
    size: int


Loaded: TypeAlias = TokenizedRecord | Rejection


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive records in input order, as the loader returns them."""

    records: tuple[Loaded, ...]
    sizes: tuple[int, ...]
    """Approximate bytes that each record holds in memory."""

    @classmethod
    def of(cls, records: Sequence[Loaded]) -> Self:
        """A chunk of `records`, with their sizes."""
        return cls(tuple(records), tuple(map(_held_bytes, records)))

    @property
    def size(self) -> int:
        """Bytes that all records hold together."""
        return sum(self.sizes)


def _held_bytes(record: Loaded) -> int:
    """Bytes that `record` holds: its raw text and its tokens."""
    tokens = record.tokens if isinstance(record, TokenizedRecord) else ()
    return len(record.raw) + sum(passage.nbytes for passage in tokens) + 200


@dataclass(frozen=True, slots=True)
class Counts:
    """What was done with records: those of a batch, of a session, of a run. The names are those in
    manifests and in the footers of parts."""

    records: int = 0
    """Good and bad."""
    rows: int = 0
    """Records measured."""
    rejected: int = 0
    truncated: int = 0
    tokens: int = 0
    """Tokens of all passages, as if none were shared."""
    tokens_run: int = 0
    """Tokens that were run: shared ones count once."""
    reruns_in_float32: int = 0
    """Passages run again alone in float32, because their residual was not finite."""
    out_of_memory_splits: int = 0
    """How often a batch was split because it did not fit the memory."""
    model_errors: int = 0
    """How often the model raised an error, on a batch or a part of it."""

    @classmethod
    def of(cls, entries: Mapping[str, Any]) -> Self:
        """The counts in a manifest or footer; those it lacks are 0."""
        return cls(**{name: entries[name] for name in cls.__slots__ if name in entries})

    def __add__(self, other: "Counts") -> "Counts":
        """The sum of both."""
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))
