"""Passages that hypothesis draws, and records made of them."""

import numpy as np
from hypothesis import strategies as st

from streamer.records import Origin, TokenizedRecord

FEW = st.integers(0, 2)
"""So few ids that passages begin alike all the time."""
PASSAGES = st.lists(st.lists(FEW, min_size=1, max_size=8).map(tuple), min_size=1, max_size=25)
LENGTHS = st.integers(1, 40)


def prefixes(passages: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    return {ids[: n + 1] for ids in passages for n in range(len(ids))}


def records_of(passages: list[tuple[int, ...]], each: int) -> list[TokenizedRecord]:
    groups = [passages[at : at + each] for at in range(0, len(passages), each)]
    return [
        TokenizedRecord(
            Origin(row, "in", row, row, row + 1),
            b"",
            str(row),
            (),
            tuple(np.array(ids, np.int32) for ids in group),
        )
        for row, group in enumerate(groups)
    ]
