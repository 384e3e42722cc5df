"""Rows hold every passage once, whatever its neighbours are, and no token more than they must."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.batches import PackedTokens
from streamer.planning.packing import FAR, Packing, as_key
from support.passages import LENGTHS, PASSAGES, prefixes

SHARING = ("trie", "prefix", "none")


def seen_from(rows: PackedTokens, read: int) -> tuple[list[int], list[int]]:
    """Ids and depths of the positions that the one at `read` sees, itself the last."""
    row, place = divmod(read, rows.tokens.shape[1])
    sees = np.flatnonzero(rows.ends[row, : place + 1] > place)
    assert sees[-1] == place
    return rows.tokens[row, sees].tolist(), rows.depths[row, sees].tolist()


def used(rows: PackedTokens) -> list[int]:
    """Positions of each row up to the last that some passage sees."""
    width = rows.tokens.shape[1]
    last = [0] * len(rows.tokens)
    for read in rows.read_at.tolist():
        last[read // width] = max(last[read // width], read % width + 1)
    return last


def ends_another(passage: tuple[int, ...], passages: set[tuple[int, ...]]) -> bool:
    return any(passage == one[: len(passage)] for one in passages if one != passage)


def test_the_example_that_trie_draws():
    rows = Packing("trie", 16).pack_passages([(1, 5, 6), (1, 5, 7, 8), (1, 9)])
    assert rows.tokens.tolist() == [[1, 5, 6, 7, 8, 9]]
    assert rows.depths.tolist() == [[0, 1, 2, 2, 3, 1]]
    assert rows.ends.tolist() == [[6, 5, 3, 5, 5, 6]]
    assert rows.read_at.tolist() == [2, 4, 5]


@pytest.mark.parametrize("sharing", SHARING)
@given(PASSAGES, LENGTHS)
def test_a_read_sees_its_passage_and_nothing_else(sharing, passages, length):
    rows = Packing(sharing, length).pack_passages(passages)
    assert len(rows.read_at) == len(passages)
    for ids, read in zip(passages, rows.read_at.tolist(), strict=True):
        tokens, depths = seen_from(rows, read)
        assert tuple(tokens) == ids
        assert depths == list(range(len(ids)))


@pytest.mark.parametrize("sharing", SHARING)
@given(PASSAGES, LENGTHS)
def test_every_token_of_a_row_is_seen_by_causal_order_at_its_depth(sharing, passages, length):
    """Also where nobody reads, a position sees as many as its depth says: the mask is a trie's."""
    rows = Packing(sharing, length).pack_passages(passages)
    for row, n in enumerate(used(rows)):
        for place in range(n):
            _, depths = seen_from(rows, row * rows.tokens.shape[1] + place)
            assert depths == list(range(rows.depths[row, place] + 1))


@pytest.mark.parametrize("sharing", SHARING)
@given(PASSAGES, LENGTHS)
def test_a_row_is_no_longer_than_asked_for_or_than_long_passages_need(sharing, passages, length):
    rows = Packing(sharing, length).pack_passages(passages)
    longest = max(map(len, passages))
    most = longest
    if sharing == "trie":
        is_short = 2 * longest <= length
        most = length if is_short else longest + min(longest, FAR * length)
    assert rows.tokens.shape[1] <= most
    assert rows.size == rows.tokens.size


@pytest.mark.parametrize("sharing", SHARING)
@given(PASSAGES, LENGTHS)
def test_padding_counts_as_nothing_and_sees_itself(sharing, passages, length):
    rows = Packing(sharing, length).pack_passages(passages)
    assert rows.count == sum(used(rows))
    for row, n in enumerate(used(rows)):
        assert rows.ends[row, n:].tolist() == list(range(n + 1, rows.tokens.shape[1] + 1))


@given(PASSAGES)
def test_a_trie_runs_each_distinct_prefix_once_where_all_fit_one_row(passages):
    everything = 2 * sum(map(len, passages))  # none of them is long beside that
    rows = Packing("trie", everything).pack_passages(passages)
    assert len(rows.tokens) == 1
    assert rows.count == len(prefixes(passages))


@given(PASSAGES, LENGTHS)
def test_a_trie_runs_each_distinct_prefix_at_most_once_a_row(passages, length):
    rows = Packing("trie", length).pack_passages(passages)
    for row, n in enumerate(used(rows)):
        width = rows.tokens.shape[1]
        paths = [tuple(seen_from(rows, row * width + place)[0]) for place in range(n)]
        assert len(set(paths)) == len(paths)
        assert set(paths) <= prefixes(passages)


def test_rows_are_filled_evenly():
    passages = [(first, *range(30)) for first in range(5)]
    assert Packing("trie", 128).pack_passages(passages).tokens.shape in ((2, 3 * 31), (3, 2 * 31))


@given(PASSAGES, LENGTHS)
def test_even_rows_are_never_larger_than_rows_filled_to_the_brim(passages, length):
    limit = max(length, *(2 * len(ids) for ids in passages))
    used, before = [], ()
    for ids in sorted(passages):
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, ids, strict=False))
        more = len(ids) - len(list(alike))
        if used and used[-1] + more <= limit:
            used[-1] += more
        else:
            used.append(len(ids))
        before = ids
    assert Packing("trie", limit).pack_passages(passages).size <= len(used) * max(used)


@given(PASSAGES, LENGTHS)
def test_a_passage_that_begins_or_equals_another_costs_nothing(passages, length):
    rows = Packing("prefix", length).pack_passages(passages)
    distinct = set(passages)
    kept = [ids for ids in distinct if not ends_another(ids, distinct)]
    assert len(rows.tokens) == len(kept)
    assert rows.count == sum(map(len, kept))
    assert not rows.branches


@given(PASSAGES, LENGTHS)
def test_without_sharing_every_passage_has_a_row_of_its_own(passages, length):
    rows = Packing("none", length).pack_passages(passages)
    width = max(map(len, passages))
    assert sorted(rows.read_at // width) == list(range(len(passages)))
    assert rows.count == sum(map(len, passages))
    assert not rows.branches


@given(PASSAGES, LENGTHS)
def test_rows_branch_if_one_of_them_is_not_a_chain(passages, length):
    rows = Packing("trie", length).pack_passages(passages)
    causal = [
        (rows.depths[row, :n] == np.arange(n)).all() and (rows.ends[row, :n] == n).all()
        for row, n in enumerate(used(rows))
    ]
    assert rows.branches == (not all(causal))


@pytest.mark.parametrize("sharing", SHARING)
@given(PASSAGES, LENGTHS, st.randoms())
def test_the_order_of_passages_decides_nothing_but_the_order_of_reads(
    sharing, passages, length, random
):
    order = list(range(len(passages)))
    random.shuffle(order)
    packing = Packing(sharing, length)
    one = packing.pack_passages(passages)
    other = packing.pack_passages([passages[place] for place in order])
    assert np.array_equal(one.tokens, other.tokens)
    assert np.array_equal(one.ends, other.ends)
    assert other.count == one.count


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=3), max_size=20))
def test_keys_sort_as_token_ids_do(passages):
    keys = {as_key(np.array(ids, np.int32)): ids for ids in passages}
    assert [keys[key] for key in sorted(keys)] == sorted(keys.values())


@pytest.mark.parametrize("sharing", SHARING)
def test_a_long_passage_beside_many_equal_short_ones_needs_little_memory(sharing):
    passages = [np.arange(100, dtype=np.int32)] * 2000 + [np.arange(20_000, dtype=np.int32)]
    if sharing == "none":
        passages = passages[-5:]
    tracemalloc.start()
    rows = Packing(sharing, 128).pack_passages(passages)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    tokens = sum(map(len, passages))
    assert peak < 200 * (tokens + rows.size)
