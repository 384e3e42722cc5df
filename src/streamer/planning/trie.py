"""Passages as a trie, and the trie laid out in rows with the mask that it needs.

Sorted by token ids, passages are a trie in depth-first order: each adds its own tokens after those
that it shares with the passage before it. Three passages `1 5 6`, `1 5 7 8` and `1 9`:

    1 ─┬─ 5 ─┬─ 6            passage   tokens     common   added
       │     └─ 7 ── 8          0      1 5 6         0     1 5 6
       └─ 9                     1      1 5 7 8       2     7 8
                                2      1 9           1     9

    position   0  1  2  3  4  5        seen by position:   0  1  2  3  4  5
    token      1  5  6  7  8  9                       0    ×
    depth      0  1  2  2  3  1                       1    ×  ×
    end        6  5  3  5  5  6                       2    ×  ×  ×
    read at          ↑     ↑  ↑                       3    ×  ×     ×
                     0     1  2                       4    ×  ×     ×  ×
                                                      5    ×              ×

A token sees those before it in its row whose subtree has not ended: position k sees j if j ≤ k <
end[j]. So one number per token, where its subtree ends, encodes the attention mask (row k of it on
the right); its depth is its position id. A passage's residual is read at its last token.

No Python loop runs over tokens: a device that measures thousands of records a second leaves no
time for that. "Ragged" arrays have the tokens of all passages end to end.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from streamer.batches import PackedTokens

Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trie:
    """Where each passage's own tokens are; passages in order, row after row."""

    row: Ints
    """[passage]"""
    begin: Ints
    """[passage]: position in its row of the first token that it adds."""
    added: Ints
    """[passage]: how many tokens it adds."""
    common: Ints
    """[passage]: how many tokens it shares with the one before it in its row."""
    used: Ints
    """[row]: positions that are not padding."""
    branches: bool

    @classmethod
    def of(cls, lengths: Ints, common: Ints, firsts: Ints) -> "Trie":
        """The trie of passages of these `lengths`, where those at `firsts` begin a row."""
        added = lengths - common
        used = np.add.reduceat(added, firsts)
        row = np.repeat(np.arange(len(firsts)), np.diff(firsts, append=len(lengths)))
        before = np.cumsum(added) - added
        continues = np.ones(len(lengths), dtype=bool)
        continues[firsts] = False
        branches = bool((continues[1:] & (common[1:] < lengths[:-1])).any())
        return cls(row, before - before[firsts][row], added, common, used, branches)

    def rows(self, ids: npt.NDArray[np.int32], order: Ints) -> PackedTokens:
        """The packed rows. `ids` are ragged; `order` is the index of each passage in the input."""
        width = int(self.used.max())
        lengths = self.common + self.added
        depth = ragged_range(self.common, self.added)
        which = np.repeat(np.arange(len(lengths)), self.added)
        index = (self.row * width + self.begin - self.common)[which] + depth
        tokens = np.zeros((len(self.used), width), dtype=np.int64)
        depths = np.zeros_like(tokens)
        ends = np.tile(np.arange(1, width + 1), (len(tokens), 1))  # padding is seen by itself
        tokens.reshape(-1)[index] = ids[(np.cumsum(lengths) - lengths)[which] + depth]
        depths.reshape(-1)[index] = depth
        ends.reshape(-1)[index] = self._ends(which, depth)
        read_at = np.empty_like(order)
        read_at[order] = index[np.cumsum(self.added) - 1]  # one that adds none equals the last
        count = int(self.used.sum())
        return PackedTokens(tokens, depths, ends, read_at, branches=self.branches, count=count)

    def _ends(self, which: Ints, depth: Ints) -> Ints:
        """[token]: the position in its row where its subtree ends: where the first later passage
        that does not share it begins, or the end of the row. `depth` and `which`: the tokens'
        depths and passages."""
        ends: Ints = self.used[self.row][which]
        if not self.branches:
            return ends
        adds = np.flatnonzero(self.added)  # one that adds no token ends no other's subtree
        n, common = len(adds), self.common[adds]
        parts = common[:, None] <= np.arange((self.common + self.added).max())
        parting = np.where(parts, np.arange(n)[:, None], n)
        this_or_later = np.minimum.accumulate(parting[::-1], axis=0)[::-1]
        later = np.append(this_or_later[1:], np.full_like(parting[:1], n), axis=0)
        index = np.cumsum(self.added > 0) - 1  # of each passage among those that add tokens
        found = later[index[which], depth]
        row, begin = np.append(self.row[adds], -1)[found], np.append(self.begin[adds], 0)[found]
        return np.where(row == self.row[which], begin, ends)


def as_key(ids: npt.NDArray[np.int32]) -> bytes:
    """Bytes that sort like the token ids, which must not be negative."""
    return ids.astype(">i4").tobytes()


def order_of(ids: npt.NDArray[np.int32], begins: Ints, lengths: Ints) -> Ints:
    """The indices of ragged passages in the order of their ids."""
    key = as_key(ids)
    bounds = zip((4 * begins).tolist(), (4 * (begins + lengths)).tolist(), strict=True)
    keys = [key[begin:end] for begin, end in bounds]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__))


def shared_with_last(ids: npt.NDArray[np.int32], lengths: Ints) -> Ints:
    """How many tokens at its beginning each of the ragged passages `ids` shares with the one before
    it; 0 for the first."""
    before = np.append(0, lengths[:-1])  # the length of the one before
    depth = ragged_range(np.zeros_like(lengths), lengths)
    behind = np.arange(len(ids)) - np.repeat(before, lengths)  # the same depth in the one before
    differs = (depth >= np.repeat(before, lengths)) | (ids[behind] != ids)
    first = np.where(differs, depth, np.repeat(lengths, lengths))
    return np.minimum.reduceat(first, np.cumsum(lengths) - lengths)


def ragged_range(begins: Ints, counts: Ints) -> Ints:
    """`counts` consecutive numbers from each of `begins`, end to end."""
    before = np.cumsum(counts) - counts
    numbers: Ints = np.arange(counts.sum()) + np.repeat(begins - before, counts)
    return numbers
