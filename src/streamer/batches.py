"""What flows from planning on: batches of records, and the results of running them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamer.records import Counts, Rejection, TokenizedRecord

N = TypeVar("N", int, npt.NDArray[np.int64])
"""One number, or an array with one for each batch."""


@dataclass(frozen=True, slots=True)
class Window:
    """A range of input rows within which batches may change the order."""

    index: int
    rows: int
    """How many records it has, good and bad; the writer waits until it has them all."""


@dataclass(frozen=True, slots=True)
class Footprint(Generic[N]):
    """The sizes that determine how much memory a batch needs; or arrays with an entry per batch."""

    positions: N
    """Rows × width: token positions, padding included."""
    pairs: N
    """Rows × width²: entries of attention and of its mask."""
    passages: N

    def __add__(self, other: "Footprint[N]") -> "Footprint[N]":
        """The sum of both."""
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
    """[row, position]: the position in the row just after the last token that sees this one."""
    read_at: npt.NDArray[np.int64]
    """[passage]: index into the flattened rows of its last token, record by record."""
    branches: bool
    """Whether some row is more than one chain, so that causal order alone is not its mask."""
    count: int
    """Positions that are not padding."""

    @property
    def arrays(self) -> tuple[npt.NDArray[np.int64], ...]:
        """The arrays that the device needs: tokens, depths, ends, read_at."""
        return self.tokens, self.depths, self.ends, self.read_at

    @property
    def size(self) -> int:
        """Positions, padding included."""
        return int(self.tokens.size)

    @property
    def footprint(self) -> Footprint[int]:
        """The sizes that determine how much memory they need."""
        return Footprint(self.size, self.size * self.tokens.shape[1], len(self.read_at))


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that run through the model together, and rejections to be written with them."""

    window: Window
    records: tuple[TokenizedRecord, ...]
    rejections: tuple[Rejection, ...] = ()
    rows: PackedTokens | None = None
    """Its passages, packed; None if there are no records."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the device did for a batch."""

    counts: Counts = Counts()  # noqa: RUF009  (frozen)
    """Of tokens, reruns, splits and errors; not of records."""
    positions: int = 0
    """Token positions that were run, padding included."""
    faint: int = 0
    """Passages to whose residual too faint a noise was added to say much about its stability."""
    largest: Footprint[int] = NOTHING
    """The footprint of the batch; if it was split, the most positions, pairs and passages of any
    of its parts."""
    hopeless: int = 0
    """Records that did not fit the memory even alone."""

    def __add__(self, other: "Work") -> "Work":
        """The work of two parts of a batch together."""
        return Work(
            counts=self.counts + other.counts,
            positions=self.positions + other.positions,
            faint=self.faint + other.faint,
            largest=Footprint(
                max(self.largest.positions, other.largest.positions),
                max(self.largest.pairs, other.largest.pairs),
                max(self.largest.passages, other.largest.passages),
            ),
            hopeless=self.hopeless + other.hopeless,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """The result of running a batch."""

    window: Window
    records: tuple[TokenizedRecord, ...]
    tables: Mapping[str, pa.Table]
    """The rows for each table of the run, by the table's name; the first column is `row`."""
    rejections: tuple[Rejection, ...]
    work: Work

    @property
    def counts(self) -> Counts:
        """What was done with its records."""
        return self.work.counts + Counts(
            records=len(self.records) + len(self.rejections),
            rows=len(self.records),
            rejected=len(self.rejections),
            truncated=sum(record.truncated for record in self.records),
        )
