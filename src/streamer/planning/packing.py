"""From passages to the rows that the model runs: each distinct token once.

Passages that begin alike share their beginning (see `trie`), across the passages of a record and
across the records of a batch; shared tokens are found by comparing ids.
"""

import itertools
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from streamer.batches import Footprint, PackedTokens
from streamer.config import Sharing
from streamer.planning.trie import Ints, Trie, as_key, order_of, ragged_range, shared_with_last
from streamer.records import TokenizedRecord

# Passages that share a row save the positions that they have in common, and cost pairs of positions
# that do not see each other but are computed all the same. About 2,500 pairs cost as much as a
# position: in rows of 2,048 instead of 128 positions, a token takes 6.0 ms instead of 3.5 (d_model
# 768, Gemma-2-shaped, 2 cores; bench/results/row_length.json). By that the next three are judged.
FAR = 8
"""A row of long passages that begin alike may have this many times `row_length` positions after the
longest beginning: 1,024. Each then attends to up to 1,024 that are not its own, which costs as much
as 0.4 positions; a beginning of that length, run once for all of them, saves more."""
HALF = 2
"""Long passages of different records share a row if they have one token in this many in common. Two
of L tokens then take 1.5 L positions instead of 2 L, and 2.25 L² pairs instead of 2 L²: that pays
up to L = 5,000."""
EIGHTH = 8
"""Long passages of one record share a row if they have one token in this many in common. It trades
time for padding: with a row for each passage, the short ones would be padded to the longest. Two of
equal length L pay for it beyond L = 200 (1.9 L positions, 3.5 L² pairs)."""
COMPARED = 2**16
"""Tokens compared at a time: faster than a whole window, and takes less memory."""
Passage: TypeAlias = Sequence[int] | npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Packing:
    """How passages become rows."""

    sharing: Sharing
    row_length: int
    """Most positions of a row of passages that have little in common. In a short row, the quadratic
    cost of attention is small compared to the matrix products."""
    context: int = sys.maxsize
    """Most positions of a row of long passages: the model's context, as some architectures have a
    mask of that size."""

    def pack(self, records: Sequence[TokenizedRecord]) -> PackedTokens:
        """All passages of `records`, in as few positions as `sharing` allows."""
        return self._pack([ids for record in records for ids in record.tokens], _owners(records))

    def pack_passages(self, passages: Sequence[Passage]) -> PackedTokens:
        """The same for plain token ids, each passage a record."""
        return self._pack(passages, np.arange(len(passages)))

    def _pack(self, passages: Sequence[Passage], owners: Ints) -> PackedTokens:
        lengths = _lengths(passages)
        ids = np.concatenate(passages, dtype=np.int32)
        begins = np.cumsum(lengths) - lengths
        order = order_of(ids, begins, lengths)
        ids, lengths = ids[ragged_range(begins[order], lengths[order])], lengths[order]
        shared = shared_with_last(ids, lengths)
        firsts = self._first_of_rows(lengths, shared, owners[order])
        shared[firsts] = 0
        return Trie.of(lengths, shared, firsts).rows(ids, order)

    def shares_a_row(self, record: TokenizedRecord) -> bool:
        """Whether `record` is short enough to share a row with others."""
        return self.sharing == "trie" and 2 * record.longest <= self.row_length

    def in_order(self, records: Sequence[TokenizedRecord]) -> list[TokenizedRecord]:
        """Records that are all short, or all long (see `shares_a_row`), in the order in which they
        are cut into batches. Short ones are sorted by their tokens, so that neighbours begin alike.
        Rows of long ones are padded to the widest, so these are sorted by width, except that one
        with half of its tokens in common with the one before it stays after that."""
        by_tokens = sorted(records, key=lambda record: as_key(record.tokens[0]))
        if not records or self.shares_a_row(records[0]):
            return by_tokens
        apart, widths = self._compared(by_tokens)
        group = np.cumsum(apart) - 1
        widest = np.zeros(group[-1] + 1, dtype=np.int64)
        np.maximum.at(widest, group, widths)
        return [by_tokens[index] for index in np.lexsort((group, widest[group])).tolist()]

    def _compared(self, records: Sequence[TokenizedRecord]) -> tuple[npt.NDArray[np.bool_], Ints]:
        """For long records in the order of their tokens, [record]: whether it has less than half of
        the longest passage in common with the one before it, and how wide a row of its own is."""
        begins: list[npt.NDArray[np.bool_]] = []
        widths: list[Ints] = []
        last: list[TokenizedRecord] = []
        for block in _blocks(records):
            beside = [*last, *block]
            lengths, shared, owners = self._in_turn(beside)
            firsts = _firsts(beside)
            longest = np.maximum.reduceat(lengths, firsts)
            apart = HALF * shared[firsts] < np.maximum(longest, np.append(0, longest[:-1]))
            opens = self._opens(lengths, shared, owners)
            begins.append((apart | opens[firsts])[len(last) :])
            widths.append(self._widths(lengths, shared, opens, firsts)[len(last) :])
            last = block[-1:]
        return np.concatenate(begins), np.concatenate(widths)

    def sizes(self, records: Sequence[TokenizedRecord]) -> Footprint[Ints]:
        """[record]: the approximate size of a batch of the first one, two, … of `records`, which
        are `in_order`."""
        lengths, shared, owners = self._in_turn(records)
        firsts = _firsts(records)
        last = np.append(firsts[1:], len(lengths)) - 1
        tokens: Ints = np.cumsum(lengths - shared)[last]
        if self.shares_a_row(records[0]):
            return Footprint(tokens, tokens * self.row_length, last + 1)
        opens = self._opens(lengths, shared, owners)
        widest = np.maximum.accumulate(self._widths(lengths, shared, opens, firsts))
        positions = np.maximum(np.cumsum(opens)[last] * widest, tokens)
        return Footprint(positions, positions * widest, last + 1)

    def _in_turn(self, records: Sequence[TokenizedRecord]) -> tuple[Ints, Ints, Ints]:
        """[passage] of all records in turn: its length, how many tokens it shares with the one
        before it, and the index of its record."""
        passages = [ids for record in records for ids in record.tokens]
        lengths = _lengths(passages)
        shared = np.zeros_like(lengths)
        if self.sharing != "none":
            shared = shared_with_last(np.concatenate(passages), lengths)
        return lengths, shared, _owners(records)

    def _widths(
        self, lengths: Ints, shared: Ints, opens: npt.NDArray[np.bool_], firsts: Ints
    ) -> Ints:
        """[record]: how wide its rows are if it shares none; `firsts` are the records' first
        passages."""
        longest: Ints = np.maximum.reduceat(lengths, firsts)
        in_one_row = np.add.reduceat(opens.astype(np.int64), firsts) == opens[firsts]
        distinct = np.add.reduceat(lengths - shared, firsts) + shared[firsts]
        return np.where(in_one_row & (distinct <= self.context), distinct, longest)

    def _first_of_rows(self, lengths: Ints, shared: Ints, owners: Ints) -> Ints:
        """Which of the passages, in order, begin a row."""
        if self.sharing == "trie" and 2 * lengths.max() <= self.row_length:
            return _even_rows(lengths, shared, self.row_length)
        firsts = np.flatnonzero(self._opens(lengths, shared, owners))
        if self.sharing != "trie":
            return firsts
        parts = list(itertools.pairwise([*firsts.tolist(), len(lengths)]))

        def filled(limit: int) -> tuple[int, Ints]:
            """Positions, and which passages begin a row, if rows have at most `limit`."""
            rows = [
                first + _even_rows(lengths[first:end], shared[first:end], limit)
                for first, end in parts
            ]
            firsts = np.concatenate(rows)
            used = np.add.reduceat(lengths - shared, firsts) + shared[firsts]
            return len(firsts) * int(used.max()), firsts

        ways = map(filled, self._longest_rows(lengths, shared, owners))
        return min(ways, key=lambda way: way[0])[1]

    def _opens(self, lengths: Ints, shared: Ints, owners: Ints) -> npt.NDArray[np.bool_]:
        """[passage]: whether it begins a row, if passages are long. In a trie, one with half of its
        tokens in common with the one before it does not: they may be examples that all prompts
        begin with. Neither does one of the same record, if it is not very long."""
        joins = shared[1:] == lengths[:-1]
        if self.sharing == "none":
            joins = np.zeros_like(joins)
        if self.sharing == "trie":
            pays = (EIGHTH * shared[1:] >= lengths[1:]) | (lengths[1:] <= FAR * self.row_length)
            joins |= (HALF * shared[1:] >= lengths[1:]) | (pays & (owners[1:] == owners[:-1]))
        return np.append(True, ~joins)

    def _longest_rows(self, lengths: Ints, shared: Ints, owners: Ints) -> tuple[int, int]:
        """Most positions of a row of long passages, within the context: as many as any record has;
        or, of records that begin alike, as many as make their beginning cheap."""
        runs = np.append(0, np.flatnonzero(np.diff(owners)) + 1)  # of neighbours of one record
        record = np.add.reduceat(lengths - shared, runs) + shared[runs]
        longest = int(lengths.max())
        enough = max(longest, min(int(record.max()), self.context))
        cheap = min(longest + min(longest, FAR * self.row_length), self.context)
        return enough, max(enough, cheap)


def _owners(records: Sequence[TokenizedRecord]) -> Ints:
    """[passage]: the index of its record."""
    return np.repeat(np.arange(len(records)), [len(record.tokens) for record in records])


def _blocks(records: Sequence[TokenizedRecord]) -> Iterator[list[TokenizedRecord]]:
    """`records` in blocks of about `COMPARED` tokens."""
    tokens = itertools.accumulate(sum(map(len, record.tokens)) for record in records)
    by_block = itertools.groupby(zip(records, tokens, strict=True), lambda one: one[1] // COMPARED)
    for _, block in by_block:
        yield [record for record, _ in block]


def _firsts(records: Sequence[TokenizedRecord]) -> Ints:
    """[record]: the index of its first passage among all passages."""
    counts = np.array([len(record.tokens) for record in records])
    firsts: Ints = np.cumsum(counts) - counts
    return firsts


def _lengths(passages: Sequence[Passage]) -> Ints:
    return np.array([len(ids) for ids in passages], dtype=np.int64)


def _even_rows(lengths: Ints, shared: Ints, limit: int) -> Ints:
    """Which passages begin a row of at most `limit` positions, so that little is padding. Tries the
    fewest rows possible and one more, each as short as can be, and takes those of fewer
    positions."""
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
    """Which passages begin a row if rows are filled in turn up to `limit`. `alone`: the length of
    each passage; `ahead`: the positions of it and all before it in a single row."""
    firsts = [0]
    while True:
        first = firsts[-1]
        room = limit - alone[first] + ahead[first]
        beyond = bisect_right(ahead, room, lo=first + 1)
        if beyond == len(ahead):
            return firsts
        firsts.append(beyond)
