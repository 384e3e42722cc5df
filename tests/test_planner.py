"""Which records run together: within the budget, sorted within their window, none left out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.batching.planner import WINDOW_SECONDS, Budget, Planner
from streamer.records import Chunk, Origin, Rejection, TokenizedRecord, padded_tokens


def record(row: int, length: int) -> TokenizedRecord | Rejection:
    """One of `length` tokens, a rejection if that is 0."""
    origin = Origin(row, "in", row, row, row + 1)
    if not length:
        return Rejection(origin, "bad", b"", 0)
    return TokenizedRecord(origin, b"", str(row), (), (np.zeros(length, np.int32),))


@given(
    st.lists(st.integers(0, 40), max_size=60), st.integers(1, 8), st.integers(1, 200),
    st.integers(1, 20),
)  # fmt: skip
def test_every_record_is_in_one_batch_of_its_window_within_the_budget(
    lengths, records, tokens, window
):
    planner = Planner(Budget(records, tokens), window, 10**9)
    planner.add(Chunk(tuple(record(row, length) for row, length in enumerate(lengths))))
    batches = list(planner.cut())
    rows_of: dict[int, list[int]] = {}
    for batch in batches:
        assert len(batch.records) <= records
        assert len(batch.records) <= 1 or padded_tokens(batch.records) <= tokens
        rows = [one.origin.row for one in batch.records]
        rows += [one.origin.row for one in batch.rejections]
        rows_of.setdefault(batch.window.index, []).extend(rows)
        assert batch.window.rows <= window
    assert [len(rows) for rows in rows_of.values()] == [
        batch.window.rows for batch in {b.window.index: b for b in batches}.values()
    ]
    flat = [sorted(rows) for _, rows in sorted(rows_of.items())]
    assert [row for rows in flat for row in rows] == list(range(len(lengths)))
    assert list(planner.cut()) == []


def test_like_lengths_run_together():
    planner = Planner(Budget(2, 1000), 100, 10**9)
    planner.add(Chunk(tuple(record(row, length) for row, length in enumerate([9, 1, 8, 2]))))
    assert [[one.longest for one in batch.records] for batch in planner.cut()] == [[1, 2], [8, 9]]


def test_a_window_is_limited_in_records_bytes_and_seconds_of_work():
    def is_full(records: int, per_second: float, size: int = 10**9) -> bool:
        planner = Planner(Budget(4, 1000), 100, size)
        planner.add(Chunk(tuple(record(row, 1) for row in range(records))))
        return planner.is_full(per_second)

    assert is_full(100, per_second=1000)
    assert not is_full(99, per_second=1000)
    assert is_full(99, per_second=1000, size=1)
    assert is_full(int(2 * WINDOW_SECONDS), per_second=2)
    assert not is_full(int(2 * WINDOW_SECONDS) - 1, per_second=2)
    assert is_full(16, per_second=0)
    assert not is_full(15, per_second=0)
