"""Which records run together: within the budget, sorted within their window, none left out."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.batches import Batch
from streamer.planning.budget import Budget
from streamer.planning.cost import BatchCost
from streamer.planning.packing import Packing
from streamer.planning.planner import FIRST_SECONDS, WINDOW_SECONDS, Planner
from streamer.records import Chunk, Origin, Rejection, TokenizedRecord

TRIES = Packing("trie", 16)


def record(row: int, *lengths: int) -> TokenizedRecord | Rejection:
    """With passages of these lengths, that share tokens with each other only; none: rejected."""
    origin = Origin(row, "in", row, row, row + 1)
    if not lengths:
        return Rejection(origin, "bad", b"", 0)
    passages = tuple(np.full(length, row + 1, np.int32) for length in lengths)
    return TokenizedRecord(origin, b"", str(row), (), passages)


@pytest.fixture(autouse=True)
def look_at_few(monkeypatch):
    """At first, to find out how many fit: the rest of a window takes a second look and a third."""
    monkeypatch.setattr("streamer.planning.planner.LOOK_AT", 2)


@given(
    st.lists(st.lists(st.integers(1, 40), max_size=3), max_size=40),
    st.integers(1, 8) | st.none(),
    st.integers(1, 200),
    st.integers(1, 20),
    st.sampled_from(["trie", "prefix", "none"]),
)
def test_every_record_is_in_one_batch_of_its_window_within_the_budget(
    lengths, records, tokens, window, sharing
):
    planner = Planner(Packing(sharing, 16), Budget(tokens, records=records), window, 10**9)
    planner.add(Chunk.of([record(row, *length) for row, length in enumerate(lengths)]))
    rows_of: dict[int, list[int]] = {}
    windows = {}
    for batch in planner.cut():
        if len(batch.records) > 1:
            assert batch.rows.size <= tokens
            assert records is None or len(batch.records) <= records
        rows = [one.origin.row for one in (*batch.records, *batch.rejections)]
        rows_of.setdefault(batch.window.index, []).extend(rows)
        windows[batch.window.index] = batch.window.rows
        assert batch.window.rows <= window
    assert {index: len(rows) for index, rows in rows_of.items()} == windows
    flat = [sorted(rows) for _, rows in sorted(rows_of.items())]
    assert [row for rows in flat for row in rows] == list(range(len(lengths)))
    assert list(planner.cut()) == []


def test_what_does_not_share_a_row_runs_beside_its_like():
    planner = Planner(Packing("prefix", 16), Budget(1000, records=2), 100, 10**9)
    planner.add(Chunk.of([record(row, length) for row, length in enumerate([9, 1, 8, 2])]))
    assert [[one.longest for one in batch.records] for batch in planner.cut()] == [[1, 2], [8, 9]]


def contrast(row: int, prompt: list[int], *answers: int) -> TokenizedRecord:
    """Passages that begin with `prompt`, and answers of these lengths, of random tokens."""
    random = np.random.default_rng(row)
    passages = [prompt, *(prompt + random.integers(10**9, size=n).tolist() for n in answers)]
    ids = tuple(np.array(passage, np.int32) for passage in passages)
    return TokenizedRecord(Origin(row, "in", row, row, row + 1), b"", str(row), (), ids)


def long_batches(records: list[TokenizedRecord], monkeypatch, context: int = 1000) -> list[Batch]:
    """Of a budget of 1,000 positions, found without packing every batch many times."""
    packed, pack = [], Packing.pack
    monkeypatch.setattr(Packing, "pack", lambda *a: packed.append(a) or pack(*a))
    planner = Planner(Packing("trie", 16, context), Budget(1000), 1000, 10**9)
    planner.add(Chunk.of(records))
    batches = list(planner.cut())
    assert len(packed) <= 4 * len(batches)
    assert [size for size in (batch.rows.size for batch in batches) if size > 1000] == []
    return batches


def test_long_records_that_begin_alike_run_together_whatever_their_length(monkeypatch):
    beginnings = [list(range(1000 * n, 1000 * n + 200)) for n in range(5)]
    records = [contrast(row, beginnings[row % 5], 3 + row % 7, 2 + row % 11) for row in range(200)]
    batches = long_batches(records, monkeypatch)
    met = [row % 5 for batch in batches for row in (one.origin.row for one in batch.records)]
    assert len([None for one, other in pairwise(met) if one != other]) == 4
    assert sum(batch.rows.count for batch in batches) < 200 * 40  # 220 each without


def a_prompt_of_any_length(row: int, random: np.random.Generator) -> list[int]:
    return [row] * int(random.integers(1, 50))


def one_short_prompt(row: int, random: np.random.Generator) -> list[int]:
    return [1, 2, 3]


@pytest.mark.parametrize(
    ("prompt", "context", "most"),
    [
        (a_prompt_of_any_length, 1000, 1.06),
        (a_prompt_of_any_length, 120, 1.13),  # some records need two rows
        (one_short_prompt, 1000, 1.55),  # a row for each answer, short or long
        (one_short_prompt, 120, 1.4),
    ],
)
def test_long_records_run_beside_those_whose_rows_are_as_wide(monkeypatch, prompt, context, most):
    """However their width comes about: of prompts or of answers, in one row or in several."""
    random = np.random.default_rng(0)
    records = []
    for row in range(200):
        ids = prompt(row, random)
        records.append(contrast(row, ids, *random.integers(1, 110 - len(ids), 2).tolist()))
    batches = long_batches(records, monkeypatch, context)
    count, size = (sum(getattr(batch.rows, n) for batch in batches) for n in ("count", "size"))
    assert size < most * count


def test_a_budget_that_changes_while_a_window_is_cut_counts_from_the_next_batch():
    budget = Budget(4, 1000)
    planner = Planner(TRIES, budget, 100, 10**9)
    planner.add(Chunk.of([record(row, 2) for row in range(10)]))
    batches = planner.cut()
    sizes = [len(next(batches).records)]
    budget.tokens = 8
    sizes += [len(batch.records) for batch in batches]
    assert sizes == [2, 4, 4]


BYTES = BatchCost(position=10, pair=1, passage=50)


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=40),
    st.integers(50, 5000),
    st.sampled_from(["trie", "prefix", "none"]),
)
def test_no_batch_is_predicted_to_need_more_bytes_than_there_are(lengths, limit, sharing):
    """But for single records, which cannot be cut."""
    budget = Budget(1000, cost=BYTES, start_bytes=limit)
    planner = Planner(Packing(sharing, 16), budget, 100, 10**9)
    planner.add(Chunk.of([record(row, *length) for row, length in enumerate(lengths)]))
    batches = list(planner.cut())
    assert sum(len(batch.records) for batch in batches) == len(lengths)
    for batch in batches:
        assert len(batch.records) == 1 or BYTES.bytes(batch.rows.footprint) <= limit


@pytest.mark.parametrize("length", [2, 40])
def test_batches_fill_the_bytes_that_there_are(length):
    budget = Budget(10**6, cost=BYTES, start_bytes=5000)
    planner = Planner(Packing("trie", 16), budget, 1000, 10**9)
    planner.add(Chunk.of([record(row, length) for row in range(200)]))
    *batches, _ = planner.cut()
    assert min(BYTES.bytes(batch.rows.footprint) for batch in batches) > 0.6 * 5000


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 60))
def test_a_batch_has_as_many_records_as_the_budget_holds(lengths, tokens):
    planner = Planner(Packing("none", 16), Budget(tokens), 100, 10**9)
    planner.add(Chunk.of([record(row, length) for row, length in enumerate(sorted(lengths))]))
    batches = list(planner.cut())
    for batch, later in pairwise(batches):
        both = len(batch.records) + 1
        assert both * later.records[0].longest > tokens


def test_a_window_is_limited_in_records_bytes_and_seconds_of_work():
    def is_full(
        records: int,
        per_second: float,
        size: int = 10**9,
        idle_seconds: float = 0.0,
        **settings: bool,
    ) -> bool:
        planner = Planner(TRIES, Budget(500), 1000, size, **settings)
        planner.add(Chunk.of([record(row, 1) for row in range(records)]))
        if planner.is_full(per_second, idle_seconds):
            return True
        return not per_second and planner.fills_a_batch()

    assert is_full(1000, per_second=1000)
    assert not is_full(999, per_second=1000)
    assert is_full(999, per_second=1000, size=1)
    assert is_full(int(2 * WINDOW_SECONDS), per_second=2)
    assert not is_full(int(2 * WINDOW_SECONDS) - 1, per_second=2)
    assert is_full(501, per_second=0), "more than a batch"
    assert not is_full(500, per_second=0)
    assert is_full(1, per_second=1000, idle_seconds=0.001)
    assert is_full(1, per_second=0, idle_seconds=2 * FIRST_SECONDS)
    assert not is_full(1, per_second=0, idle_seconds=FIRST_SECONDS / 2)
    assert not is_full(999, per_second=2, idle_seconds=10, whole_windows=True)
    assert not is_full(999, per_second=0, whole_windows=True)


def test_whole_windows_are_cut_at_the_same_records_however_those_arrive():
    def windows(chunks: list[int], begin: int = 0) -> list[list[int]]:
        planner = Planner(Packing("none", 16), Budget(64), 10, 10**9, whole_windows=True)
        rows, found, row = {}, [], begin
        for size in [*chunks, None]:
            if size is not None:
                planner.add(Chunk.of([record(row + place, 2) for place in range(size)]))
                row += size
            for batch in planner.cut(at_end=size is None):
                rows.setdefault(batch.window.index, []).extend(
                    one.origin.row for one in batch.records
                )
        found = [sorted(one) for one in rows.values()]
        assert [row for one in found for row in one] == list(range(begin, row))
        return found

    once = windows([25])
    assert [len(one) for one in once] == [10, 10, 5]
    assert windows([7, 7, 7, 4]) == windows([1] * 25) == once
    assert windows([3, 12], begin=10) == once[1:]  # gone on behind the first
