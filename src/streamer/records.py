"""What flows from stage to stage. Plain data: frozen, slotted, and nothing here knows a stage.

Item ─parse▶ Record ─tokenize▶ TokenizedRecord ─plan▶ Batch ─compute▶ Result ─▶ rows
     └─────────────┴─▶ Rejection ──────────────────────────────────────────▶ rejected rows
"""

import operator
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Generic, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamer.config import KINDS, Kind

Carried: TypeAlias = str | int | float | bool | None
N = TypeVar("N", int, npt.NDArray[np.int64])
"""A number, or one for each of many batches."""

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
    """Byte offset behind it: where reading would go on."""
    in_array: bool = False
    """Whether it is an element of a JSON array, rather than a line."""
    ended: bool = False
    """Whether the rest of the source behind it is lost."""
    file: str | None = None
    """Device and inode, where it is followed, as its name may pass to another,"""
    head: str | None = None
    """and what it begins with, as that of a pipe."""

    @property
    def key(self) -> str:
        """What it stood in: the file, whatever its name, if it is followed."""
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
    """Whether that is inside a JSON array, behind an element."""
    ended: bool = False
    """Whether the rest of that source was lost."""
    file: str | None = None
    """Device and inode, where it is followed,"""
    head: str | None = None
    """and a hash of what it begins with, up to the offset at most; also that of a pipe."""

    @property
    def inode(self) -> int | None:
        """Of the file: devices may have other numbers after a reboot."""
        return None if self.file is None else int(self.file.partition(":")[2])

    @property
    def key(self) -> str:
        """What it is a place in: the file, whatever its name, if it is followed."""
        return self.file or self.source

    @classmethod
    def behind(cls, origin: Origin) -> Self:
        """The place behind a record."""
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
    """A range of the input, which is the records of all sources in order: what one of several
    processes reads."""

    begin: Position | None = None
    """Of its first record; None: the input's first."""
    end: Position | None = None
    """Of the first record behind it; None: it goes to the end of the input."""
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
    """Why it cannot be a record, where reading already found out."""


@dataclass(frozen=True, slots=True)
class Record:
    """One input object whose fields were found and have the right types."""

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
    """What is wrong, and behind the first colon, if there is one, the details of this record."""
    raw: bytes
    size: int


Loaded: TypeAlias = TokenizedRecord | Rejection


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbours in input order, as the loader hands them over."""

    records: tuple[Loaded, ...]
    sizes: tuple[int, ...]
    """Bytes that each holds in memory, near enough for a bound."""

    @classmethod
    def of(cls, records: Sequence[Loaded]) -> Self:
        """With the sizes of `records`."""
        return cls(tuple(records), tuple(map(_held_bytes, records)))

    @property
    def size(self) -> int:
        """Bytes that all hold."""
        return sum(self.sizes)


@dataclass(frozen=True, slots=True)
class Window:
    """A range of input rows within which batches may change the order."""

    index: int
    rows: int
    """How many records it has, good and bad; the writer waits for as many."""


@dataclass(frozen=True, slots=True)
class Footprint(Generic[N]):
    """What the memory that a batch needs grows with; or arrays of that, an entry a batch."""

    positions: N
    """Rows × width: token positions, padding included."""
    pairs: N
    """Rows × width²: pairs of positions that attention and its mask have an entry for."""
    passages: N

    def __add__(self, other: "Footprint[N]") -> "Footprint[N]":
        """Of both together."""
        return Footprint(
            self.positions + other.positions,
            self.pairs + other.pairs,
            self.passages + other.passages,
        )


NOTHING = Footprint(0, 0, 0)


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Token ids side by side as the model runs them, padded on the right."""

    tokens: npt.NDArray[np.int64]
    """[row, position]"""
    depths: npt.NDArray[np.int64]
    """[row, position]: the position id: how many tokens of its passage come before a token."""
    ends: npt.NDArray[np.int64]
    """[row, position]: the position in the row behind the last token that sees this one."""
    read_at: npt.NDArray[np.int64]
    """[passage]: index into the flattened rows of its last token, record by record."""
    branches: bool
    """Whether some row is more than one chain, so that causal order alone is not its mask."""
    count: int
    """Positions that are not padding."""

    @property
    def size(self) -> int:
        """Positions, padding included."""
        return int(self.tokens.size)

    @property
    def footprint(self) -> Footprint[int]:
        """What the memory that they need grows with."""
        return Footprint(self.size, self.size * self.tokens.shape[1], len(self.read_at))


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that run through the model together, and rejections that ride along."""

    window: Window
    records: tuple[TokenizedRecord, ...]
    rejections: tuple[Rejection, ...] = ()
    rows: PackedTokens | None = None
    """Its passages, packed; None if there are no records."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the device did for a batch."""

    tokens: int = 0
    """Of all passages, as if none were shared."""
    distinct: int = 0
    """That were run: shared ones once."""
    positions: int = 0
    """That were run, padding included."""
    reruns: int = 0
    """Passages run again by themselves in float32, because their residual was not finite."""
    splits: int = 0
    """How often the batch was split because it did not fit the memory."""
    largest: Footprint[int] = NOTHING
    """What was run at once: the batch, or the most positions, pairs and passages of its parts, if
    it was split."""
    hopeless: int = 0
    """Records that did not fit the memory even alone."""
    faults: int = 0
    """How often the model raised an error, on the batch or a part of it."""

    def __add__(self, other: "Work") -> "Work":
        """Of both halves of a batch."""
        return Work(
            tokens=self.tokens + other.tokens,
            distinct=self.distinct + other.distinct,
            positions=self.positions + other.positions,
            reruns=self.reruns + other.reruns,
            splits=max(self.splits, other.splits),
            largest=Footprint(
                max(self.largest.positions, other.largest.positions),
                max(self.largest.pairs, other.largest.pairs),
                max(self.largest.passages, other.largest.passages),
            ),
            hopeless=self.hopeless + other.hopeless,
            faults=self.faults + other.faults,
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run has written. The names are those in its manifest and in the footers of parts."""

    records: int = 0
    """Read, good and bad."""
    rows: int = 0
    """Measured."""
    rejected: int = 0
    truncated: int = 0
    tokens: int = 0
    """Of all passages, as if none were shared."""
    tokens_run: int = 0
    """Shared ones once."""
    reruns_in_float32: int = 0
    out_of_memory_splits: int = 0
    model_errors: int = 0

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """What a manifest or footer says, which need not say all."""
        return cls(**{name: said[name] for name in cls.__slots__ if name in said})

    def __add__(self, other: "Counts") -> "Counts":
        """Of both."""
        return Counts(*map(operator.add, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a batch."""

    window: Window
    records: tuple[TokenizedRecord, ...]
    tables: Mapping[str, pa.Table]
    """By the name of each table of the run, its rows; the first column is `row`."""
    rejections: tuple[Rejection, ...]
    work: Work


def _held_bytes(record: Loaded) -> int:
    """Bytes that `record` holds: its raw text and its tokens."""
    tokens = record.tokens if isinstance(record, TokenizedRecord) else ()
    return len(record.raw) + sum(passage.nbytes for passage in tokens) + 200
