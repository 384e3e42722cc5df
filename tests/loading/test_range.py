"""A loader of a range of the input reads what the loader of all of it reads there."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.computing.worker import Worker
from streamer.concurrency.retry import RetryPolicy
from streamer.config import RunConfig
from streamer.loading.loader import Loader
from streamer.loading.sources import expand
from streamer.loading.tokenizing import Tokenizing
from streamer.records import Origin, Position

TEXTS = [{"text": f"Text number {n}" + " and more" * (n % 5)} for n in range(12)]
LINES = "\n\n".join(map(json.dumps, TEXTS)).encode() + b"\n"
ARRAY = json.dumps(TEXTS, indent=1).encode()
INPUTS = {
    "lines": {"a.jsonl": LINES},
    "an array": {"a.json": ARRAY},
    "compressed": {"a.jsonl.gz": gzip.compress(LINES)},
    "rubbish": {"a.jsonl": LINES.replace(b'"text": "Text number 5', b"rubbish")},
    "several": {"a.json": ARRAY, "b.json": b"[]", "c.jsonl": LINES, "d.json": ARRAY},
}


@pytest.fixture(params=INPUTS)
def load(
    request, tmp_path: Path, embedded_worker: Callable[[str], Worker]
) -> Callable[..., list[Origin]]:
    """Reads a range of an input; where the records stood."""
    for name, data in INPUTS[request.param].items():
        (tmp_path / name).write_bytes(data)
    how = Tokenizing(embedded_worker("text").model.tokenizer, None, 1024, "reject", 4096)
    sources = expand([str(tmp_path)])

    def load(**where) -> list[Origin]:
        loader = Loader(sources, RunConfig(kind="text"), lambda _: None, RetryPolicy(), **where)
        found: list[Origin] = []
        while (chunk := loader.next_chunk(how)) is not None:
            found += [record.origin for record in chunk.records]
        return found

    return load


def test_two_ranges_are_the_whole_wherever_it_is_cut(load):
    whole = load()
    assert [origin.row for origin in whole] == list(range(len(whole)))
    for row in range(1, len(whole)):
        cut = Position.behind(whole[row - 1])
        assert load(end=cut) == whole[:row]
        assert load(begin=[cut], first_row=row) == whole[row:]


def test_a_range_may_begin_and_end_where_a_source_begins(load):
    whole = load()
    for row, origin in enumerate(whole):
        if origin.position == 0:
            start = Position(origin.source, 0, 0)
            assert load(end=start) == whole[:row]
            assert load(begin=[start], first_row=row) == whole[row:]


def test_a_range_within_a_source_has_both_ends(load):
    whole = load()
    begin, end = Position.behind(whole[2]), Position.behind(whole[6])
    assert load(begin=[begin], first_row=3, end=end) == whole[3:7]


def test_a_range_whose_source_was_lost_reads_nothing_of_the_next(tmp_path, embedded_worker):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES)[:-30])
    (tmp_path / "b.jsonl").write_bytes(LINES)
    how = Tokenizing(embedded_worker("text").model.tokenizer, None, 1024, "reject", 4096)
    sources = expand([str(tmp_path)])
    end = Position(sources[0].name, 1000, 10**6)

    def load(**where) -> list[Origin]:
        loader = Loader(
            sources, RunConfig(kind="text"), lambda _: None, RetryPolicy(), end=end, **where
        )
        found: list[Origin] = []
        while (chunk := loader.next_chunk(how)) is not None:
            found += [record.origin for record in chunk.records]
        return found

    whole = load()
    assert whole[-1].ended
    assert {origin.source for origin in whole} == {sources[0].name}
    assert load(begin=[Position.behind(whole[-1])], first_row=len(whole)) == []
