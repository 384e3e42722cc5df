"""From passages to the rows that the model runs: each distinct token once.

Passages that begin alike share their beginning. Sorted by token ids they are a trie in depth-first
order: behind what it has in common with the passage before it, each adds its own tokens. A token
sees those before it in its row whose subtree has not ended, so one number a token, where its
subtree ends, holds the whole attention mask; its depth is its position id. Sharing reaches across
the passages of a record and across the records of a batch, and is found by comparing ids.

No loop of Python's looks at tokens: a device that measures thousands of records a second leaves no
time for that. "Ragged" arrays have the tokens of all passages end to end.
"""

import itertools
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from streamer.config import Sharing
from streamer.records import Rows, TokenizedRecord

FAR = 8
"""A row of long passages that begin alike may have so many times `row_length` positions behind the
longest beginning: as attention's square grows, so does what is shared."""
Ints: TypeAlias = npt.NDArray[np.int64]
Passage: TypeAlias = Sequence[int] | npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Packing:
    """How passages become rows."""

    sharing: Sharing
    row_length: int
    """Most positions of a row into which passages are packed that have little in common. In a short
    row, attention's square is small beside the matrix products."""
    context: int = sys.maxsize
    """No row of long passages is longer than the model's context: some architectures have a mask of
    that size."""

    def pack(self, records: Sequence[TokenizedRecord]) -> Rows:
        """All passages of `records`, in as few positions as `sharing` allows."""
        return self._pack([ids for record in records for ids in record.tokens], _owners(records))

    def pack_passages(self, passages: Sequence[Passage]) -> Rows:
        """The same from token ids alone, each passage a record."""
        return self._pack(passages, np.arange(len(passages)))

    def _pack(self, passages: Sequence[Passage], owners: Ints) -> Rows:
        lengths = _lengths(passages)
        ids = np.concatenate(passages, dtype=np.int32)
        begins = np.cumsum(lengths) - lengths
        order = _order(ids, begins, lengths)
        ids, lengths = ids[_ragged_range(begins[order], lengths[order])], lengths[order]
        shared = _shared(ids, lengths)
        firsts = self._first_of_rows(lengths, shared, owners[order])
        shared[firsts] = 0
        return _Trie.of(lengths, shared, firsts).rows(ids, order)

    def shares_a_row(self, record: TokenizedRecord) -> bool:
        """Whether `record` is short enough to stand in a row with others."""
        return self.sharing == "trie" and 2 * record.longest <= self.row_length

    def sizes(self, records: Sequence[TokenizedRecord]) -> Ints:
        """About how many positions the first one, two, … of `records` take together, where they are
        alike: sorted, and all of them or none share rows with others."""
        passages = [ids for record in records for ids in record.tokens]
        lengths = _lengths(passages)
        shared = np.zeros_like(lengths)
        if self.sharing != "none":
            shared = _shared(np.concatenate(passages), lengths)
        last = np.cumsum([len(record.tokens) for record in records]) - 1
        tokens: Ints = np.cumsum(lengths - shared)[last]
        if self.shares_a_row(records[0]):
            return tokens
        rows = np.cumsum(self._opens(lengths, shared, _owners(records)))[last]
        size: Ints = rows * np.maximum.accumulate([record.longest for record in records])
        return np.maximum(size, tokens)

    def _first_of_rows(self, lengths: Ints, shared: Ints, owners: Ints) -> Ints:
        """Of passages in order, which ones open a row."""
        if self.sharing == "trie" and 2 * lengths.max() <= self.row_length:
            return _even_rows(lengths, shared, self.row_length)
        firsts = np.flatnonzero(self._opens(lengths, shared, owners))
        if self.sharing != "trie":
            return firsts
        limit = self._longest_row(lengths, shared, owners)
        parts = itertools.pairwise([*firsts.tolist(), len(lengths)])
        return np.concatenate(
            [
                first + _even_rows(lengths[first:end], shared[first:end], limit)
                for first, end in parts
            ]
        )

    def _opens(self, lengths: Ints, shared: Ints, owners: Ints) -> npt.NDArray[np.bool_]:
        """[passage]: whether it stands apart from the one before it, where passages are long. In a
        trie, one that has half of its tokens in common with that does not, as it may be examples
        that all prompts begin with; nor does one of the same record, if that is not very long."""
        joins = shared[1:] == lengths[:-1]
        if self.sharing == "none":
            joins = np.zeros_like(joins)
        if self.sharing == "trie":
            pays = (8 * shared[1:] >= lengths[1:]) | (lengths[1:] <= FAR * self.row_length)
            joins |= (2 * shared[1:] >= lengths[1:]) | (pays & (owners[1:] == owners[:-1]))
        return np.append(True, ~joins)

    def _longest_row(self, lengths: Ints, shared: Ints, owners: Ints) -> int:
        """Most positions of a row of long passages, within the context: any record, and of records
        that begin alike as many as make their beginning cheap."""
        runs = np.append(0, np.flatnonzero(np.diff(owners)) + 1)  # of neighbours of one record
        record = np.add.reduceat(lengths - shared, runs) + shared[runs]
        longest = lengths.max()
        wanted = max(record.max(), longest + min(longest, FAR * self.row_length))
        return int(max(longest, min(wanted, self.context)))


@dataclass(frozen=True, slots=True)
class _Trie:
    """Where the tokens that passages add stand; passages in order, rows one after another."""

    row: Ints
    """[passage]"""
    begin: Ints
    """[passage]: position in its row of the first token that it adds."""
    added: Ints
    """[passage]: how many tokens it adds."""
    common: Ints
    """[passage]: how many it has in common with the one before it in its row."""
    used: Ints
    """[row]: positions that are not padding."""
    branches: bool

    @classmethod
    def of(cls, lengths: Ints, common: Ints, firsts: Ints) -> "_Trie":
        """Of passages of these lengths, when those at `firsts` open rows."""
        added = lengths - common
        used = np.add.reduceat(added, firsts)
        row = np.repeat(np.arange(len(firsts)), np.diff(firsts, append=len(lengths)))
        before = np.cumsum(added) - added
        continues = np.ones(len(lengths), dtype=bool)
        continues[firsts] = False
        branches = bool((continues[1:] & (common[1:] < lengths[:-1])).any())
        return cls(row, before - before[firsts][row], added, common, used, branches)

    def rows(self, ids: npt.NDArray[np.int32], order: Ints) -> Rows:
        """Side by side. `ids` are ragged, `order` says where each passage was in the input."""
        width = int(self.used.max())
        lengths = self.common + self.added
        depth = _ragged_range(self.common, self.added)
        which = np.repeat(np.arange(len(lengths)), self.added)
        place = (self.row * width + self.begin - self.common)[which] + depth
        tokens = np.zeros((len(self.used), width), dtype=np.int64)
        depths = np.zeros_like(tokens)
        ends = np.tile(np.arange(1, width + 1), (len(tokens), 1))  # padding is seen by itself
        tokens.reshape(-1)[place] = ids[(np.cumsum(lengths) - lengths)[which] + depth]
        depths.reshape(-1)[place] = depth
        ends.reshape(-1)[place] = self._ends(which, depth)
        reads = np.empty_like(order)
        reads[order] = place[np.cumsum(self.added) - 1]  # one that adds none equals that before it
        count = int(self.used.sum())
        return Rows(tokens, depths, ends, reads, branches=self.branches, count=count)

    def _ends(self, which: Ints, depth: Ints) -> Ints:
        """[token]: the position in its row where its subtree ends: where the next passage begins
        that does not share it, or the row ends. Tokens are `depth` deep in the passages `which`."""
        ends: Ints = self.used[self.row][which]
        if not self.branches:
            return ends
        adds = np.flatnonzero(self.added)  # a passage that adds nothing parts with nothing
        n, common = len(adds), self.common[adds]
        parts = common[:, None] <= np.arange((self.common + self.added).max())
        parting = np.where(parts, np.arange(n)[:, None], n)
        this_or_later = np.minimum.accumulate(parting[::-1], axis=0)[::-1]
        later = np.append(this_or_later[1:], np.full_like(parting[:1], n), axis=0)
        place = np.cumsum(self.added > 0) - 1  # of each passage among those that add
        found = later[place[which], depth]
        row, begin = np.append(self.row[adds], -1)[found], np.append(self.begin[adds], 0)[found]
        return np.where(row == self.row[which], begin, ends)


def as_key(ids: npt.NDArray[np.int32]) -> bytes:
    """Bytes that sort as the token ids do, which are not negative."""
    return ids.astype(">i4").tobytes()


def _owners(records: Sequence[TokenizedRecord]) -> Ints:
    """[passage]: which of `records` it is of."""
    return np.repeat(np.arange(len(records)), [len(record.tokens) for record in records])


def _lengths(passages: Sequence[Passage]) -> Ints:
    return np.array([len(ids) for ids in passages], dtype=np.int64)


def _order(ids: npt.NDArray[np.int32], begins: Ints, lengths: Ints) -> Ints:
    """The places of ragged passages, sorted by their ids."""
    key = as_key(ids)
    bounds = zip((4 * begins).tolist(), (4 * (begins + lengths)).tolist(), strict=True)
    keys = [key[begin:end] for begin, end in bounds]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__))


def _shared(ids: npt.NDArray[np.int32], lengths: Ints) -> Ints:
    """With how many tokens each of the ragged passages `ids` begins as the one before it does; 0
    for the first."""
    before = np.append(0, lengths[:-1])  # the length of the one before
    depth = _ragged_range(np.zeros_like(lengths), lengths)
    behind = np.arange(len(ids)) - np.repeat(before, lengths)  # the same depth of the one before
    differs = (depth >= np.repeat(before, lengths)) | (ids[behind] != ids)
    first = np.where(differs, depth, np.repeat(lengths, lengths))
    return np.minimum.reduceat(first, np.cumsum(lengths) - lengths)


def _ragged_range(begins: Ints, counts: Ints) -> Ints:
    """`counts` numbers from each of `begins` on, end to end."""
    before = np.cumsum(counts) - counts
    numbers: Ints = np.arange(counts.sum()) + np.repeat(begins - before, counts)
    return numbers


def _even_rows(lengths: Ints, shared: Ints, limit: int) -> Ints:
    """Which passages open a row, of at most `limit` positions, so that few are padding: of the
    fewest rows possible and one more, each as short as they can be, those of fewer positions."""
    alone, ahead = lengths.tolist(), np.cumsum(lengths - shared).tolist()
    fewest = len(_fill(alone, ahead, limit))
    if fewest == 1:
        return np.zeros(1, dtype=np.int64)
    ways = []
    for rows in (fewest, fewest + 1):
        low, high = min(limit, max(-(-ahead[-1] // rows), *alone)), limit
        while low < high:
            middle = (low + high) // 2
            if len(_fill(alone, ahead, middle)) <= rows:
                high = middle
            else:
                low = middle + 1
        firsts = _fill(alone, ahead, high)
        ways.append((high * len(firsts), firsts))
    return np.array(min(ways)[1])


def _fill(alone: Sequence[int], ahead: Sequence[int], limit: int) -> list[int]:
    """Which passages open a row when rows are filled one after another up to `limit`: those of
    length `alone`, which with all before them add `ahead` where nothing opens a row."""
    firsts = [0]
    while True:
        first = firsts[-1]
        room = limit - alone[first] + ahead[first]
        beyond = bisect_right(ahead, room, lo=first + 1)
        if beyond == len(ahead):
            return firsts
        firsts.append(beyond)
