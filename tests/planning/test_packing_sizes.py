"""What records take is bounded before they are packed; long ones share rows if that is less."""

from unittest import mock

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from streamer.batches import Footprint
from streamer.planning.packing import Packing
from streamer.planning.trie import Ints
from streamer.records import TokenizedRecord
from support.passages import LENGTHS, PASSAGES, prefixes, records_of


def each_of(sizes: Footprint[Ints]) -> list[tuple[int, int, int]]:
    """[record]: positions, pairs and passages."""
    columns = (sizes.positions, sizes.pairs, sizes.passages)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("sharing", ["prefix", "none"])
@given(PASSAGES, LENGTHS, st.integers(1, 3))
def test_the_sizes_of_records_in_order_bound_what_they_take(sharing, passages, length, each):
    packing = Packing(sharing, length)
    records = packing.in_order(records_of(passages, each))
    for n, (positions, pairs, read) in enumerate(each_of(packing.sizes(records)), start=1):
        taken = packing.pack(records[:n]).footprint
        assert taken.positions <= positions
        assert taken.pairs <= pairs
        assert taken.passages == read


@given(PASSAGES, st.integers(1, 3))
def test_the_sizes_of_records_that_share_a_row_bound_what_they_take(passages, each):
    packing = Packing("trie", 2 * sum(map(len, passages)))
    records = sorted(records_of(passages, each), key=lambda record: record.tokens[0].tolist())
    assert all(packing.shares_a_row(record) for record in records)
    sizes = each_of(packing.sizes(records))
    for n, (positions, pairs, read) in enumerate(sizes, start=1):
        rows = packing.pack(records[:n])
        assert rows.count <= positions
        assert rows.count * rows.tokens.shape[1] <= pairs
        assert rows.footprint.passages == read
    assert sizes == sorted(sizes)


@given(PASSAGES)
def test_the_sizes_of_texts_in_a_trie_are_exact(passages):
    packing = Packing("trie", 2 * sum(map(len, passages)))
    records = sorted(records_of(passages, 1), key=lambda record: record.tokens[0].tolist())
    found = [packing.pack(records[: n + 1]).count for n in range(len(records))]
    assert packing.sizes(records).positions.tolist() == found


@given(PASSAGES)
@example([(0,), (1, 0, 0, 0), (2, 0, 0, 0)])
def test_a_long_record_has_a_row_in_which_each_of_its_tokens_runs_once(passages):
    packing, records = Packing("trie", 6), records_of(passages, len(passages))
    assume(not packing.shares_a_row(records[0]))
    rows = packing.pack(records)
    assert len(rows.tokens) == 1
    assert rows.count == len(prefixes(passages))


@pytest.mark.parametrize("sharing", ["trie", "prefix", "none"])
@pytest.mark.parametrize("compared", [1, 20])
@given(PASSAGES, LENGTHS, st.integers(1, 3))
def test_order_keeps_every_record_and_does_not_depend_on_what_is_compared_at_once(
    sharing, compared, passages, length, each
):
    packing = Packing(sharing, length, 2 * length)
    long = [one for one in records_of(passages, each) if not packing.shares_a_row(one)]
    found = packing.in_order(long)
    assert sorted(map(id, found)) == sorted(map(id, long))
    with mock.patch("streamer.planning.packing.COMPARED", compared):
        assert [*map(id, packing.in_order(long))] == [*map(id, found)]


def test_long_texts_with_little_in_common_have_rows_of_their_own():
    texts = [(0, first, *range(200)) for first in range(1, 6)]
    rows = Packing("trie", 128).pack(records_of(texts, 1))
    assert rows.tokens.shape == (5, 202)
    assert not rows.branches


def with_examples(length: int, count: int) -> list[TokenizedRecord]:
    passages = []
    for question in range(count):
        prompt = (*range(length), length + question)
        passages += [prompt, (*prompt, 1, 2), (*prompt, 3, 4)]
    return records_of(passages, 3)


@pytest.mark.parametrize(("length", "most"), [(400, 2), (1500, 1), (4000, 1)])
def test_examples_that_all_prompts_begin_with_run_once_for_many_records(length, most):
    packing, records = Packing("trie", 128), with_examples(length, 100)
    rows = packing.pack(records)
    assert len(rows.tokens) == most
    assert rows.count <= most * (length + 2) + 100 * 5
    assert packing.sizes(records).positions[-1] == length + 100 * 5


@pytest.mark.parametrize(
    ("alike", "others", "shape"),
    [
        (40, 2, (6, 400)),  # in narrow rows, 16 of 200
        (10, 10, (14, 200)),  # in wide ones, 11 of 400
    ],
)
def test_rows_are_as_wide_as_takes_fewest_positions(alike, others, shape):
    """What begins alike may share wide rows, to which all others are padded."""
    texts = [(*range(100), 1000 + text, *range(29)) for text in range(alike)]
    texts += [tuple(range(10_000 * text, 10_000 * text + 200)) for text in range(1, others + 1)]
    assert Packing("trie", 128).pack(records_of(texts, 1)).tokens.shape == shape


def test_a_very_long_record_of_little_in_common_has_a_row_for_each_branch():
    prompt = tuple(range(50))
    (record,) = records_of([prompt, (*prompt, *range(3000)), (*prompt, *range(1, 3000))], 3)
    assert Packing("trie", 128).pack([record]).tokens.shape == (2, 3050)


def test_no_row_of_long_passages_is_longer_than_the_context():
    prompt = tuple(range(300))
    (record,) = records_of([prompt, (*prompt, *range(1, 60)), (*prompt, *range(2, 70))], 3)
    assert Packing("trie", 128, 500).pack([record]).tokens.shape == (1, 427)
    assert Packing("trie", 128, 400).pack([record]).tokens.shape == (2, 368)
