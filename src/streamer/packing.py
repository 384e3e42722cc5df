"""From passages to the rows that the model runs: each distinct token once.

Passages that begin alike share their beginning. Sorted by token ids they are a trie in depth-first
order: behind what it has in common with the passage before it, each adds its own tokens. A token
sees those before it in its row whose subtree has not ended, so one number a token, where its
subtree ends, holds the whole attention mask; its depth is its position id. Sharing reaches across
the passages of a record and across the records of a batch, and is found by comparing ids.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from streamer.config import Sharing
from streamer.records import Rows, TokenizedRecord


@dataclass(frozen=True, slots=True)
class Packing:
    """How passages become rows."""

    sharing: Sharing
    row_length: int
    """Positions of a row into which several passages are packed; a longer passage makes a longer
    row. In a short row, attention's square is small beside the matrix products."""

    def pack(self, records: Sequence[TokenizedRecord]) -> Rows:
        """All passages of `records`, in as few positions as `sharing` allows."""
        return self.pack_passages([ids.tolist() for record in records for ids in record.tokens])

    def pack_passages(self, passages: Sequence[Sequence[int]]) -> Rows:
        """The same from token ids alone."""
        keys = [tuple(ids) for ids in passages]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        shared = [0, *(_common(passages[a], passages[b]) for a, b in pairwise(order))]
        lengths = [len(passages[passage]) for passage in order]
        first = self._first_of_rows(lengths, shared)
        rows: list[_Row] = []
        reads = np.empty(len(passages), dtype=np.int64)
        row_of = np.empty(len(passages), dtype=np.int64)
        for passage, common, opens in zip(order, shared, first, strict=True):
            if opens:
                rows.append(_Row())
            reads[passage] = rows[-1].add(passages[passage], 0 if opens else common)
            row_of[passage] = len(rows) - 1
        return _side_by_side(rows, reads, row_of)

    def shares_a_row(self, record: TokenizedRecord) -> bool:
        """Whether `record` is short enough to stand in a row with others."""
        return self.sharing == "trie" and 2 * record.longest <= self.row_length

    def sizes(self, records: Sequence[TokenizedRecord]) -> Iterator[int]:
        """About how many positions the first one, two, … of `records` take together."""
        before: Sequence[int] = ()
        rows = tokens = 0
        for record in records:
            passages = sorted(ids.tolist() for ids in record.tokens)
            for ids in passages:
                common = _common(before, ids) if self.sharing != "none" else 0
                rows += common < len(before) or not before
                tokens += len(ids) - common
                before = ids
            yield tokens if self.shares_a_row(record) else rows * record.longest

    def _first_of_rows(self, lengths: Sequence[int], shared: Sequence[int]) -> list[bool]:
        """Of passages in order, which ones open a row."""
        if self.sharing == "none":
            return [True] * len(lengths)
        if self.sharing == "prefix":  # a passage that does not continue the one before it
            return [True, *(common < n for n, common in zip(lengths, shared[1:], strict=False))]
        limit = max(self.row_length, *lengths)
        fewest = sum(_fill(lengths, shared, limit))
        evenly = [_evenly(lengths, shared, rows, limit) for rows in (fewest, fewest + 1)]
        best = min(evenly, key=lambda length: length * sum(_fill(lengths, shared, length)))
        return _fill(lengths, shared, best)


@dataclass(slots=True)
class _Row:
    """A trie in depth-first order, growing."""

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    """Positions of the last passage's tokens."""
    branches: bool = False

    def add(self, ids: Sequence[int], common: int) -> int:
        """Append what `ids` has behind its first `common` tokens; its last token's position."""
        begin = len(self.tokens)
        self.branches |= common < len(self.path)
        for ended in self.path[common:]:
            self.ends[ended] = begin
        del self.path[common:]
        self.path += range(begin, begin + len(ids) - common)
        self.tokens += ids[common:]
        self.depths += range(common, len(ids))
        self.ends += [0] * (len(ids) - common)
        return self.path[-1]

    def close(self) -> None:
        """Let the last passage's tokens end with the row."""
        for ended in self.path:
            self.ends[ended] = len(self.tokens)


def _side_by_side(
    rows: Sequence[_Row], reads: npt.NDArray[np.int64], row_of: npt.NDArray[np.int64]
) -> Rows:
    width = max(len(row.tokens) for row in rows)
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    depths = np.zeros_like(tokens)
    ends = np.tile(np.arange(1, width + 1), (len(rows), 1))  # padding is seen by itself
    for index, row in enumerate(rows):
        row.close()
        n = len(row.tokens)
        tokens[index, :n], depths[index, :n], ends[index, :n] = row.tokens, row.depths, row.ends
    return Rows(
        tokens=tokens,
        depths=depths,
        ends=ends,
        reads=row_of * width + reads,
        branches=any(row.branches for row in rows),
        count=sum(len(row.tokens) for row in rows),
    )


def _evenly(lengths: Sequence[int], shared: Sequence[int], rows: int, limit: int) -> int:
    """About the least length at which so many rows do, so that few are padded; `limit` does."""
    least = min(limit, max(-(-(sum(lengths) - sum(shared)) // rows), *lengths))
    shorter = range(least, limit)
    return least + bisect_left(
        shorter, True, key=lambda length: sum(_fill(lengths, shared, length)) <= rows
    )


def _fill(lengths: Sequence[int], shared: Sequence[int], limit: int) -> list[bool]:
    """Which passages open a row when rows are filled one after another up to `limit`."""
    opens = []
    used = limit
    for length, common in zip(lengths, shared, strict=True):
        opens.append(used + length - common > limit)
        used = length if opens[-1] else used + length - common
    return opens


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens they begin with alike."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
