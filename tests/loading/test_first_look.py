"""Before a run: whether the first records' tokens say anything about them."""

from collections.abc import Iterator
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from streamer.concurrency.events import ignore
from streamer.concurrency.retry import RetryPolicy
from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.loading import loader as loader_module
from streamer.loading.first_look import doubts
from streamer.loading.loader import CHUNK_RECORDS, Loader
from streamer.loading.sources import expand
from streamer.loading.tokenizing import Tokenizing
from streamer.records import Origin, Record

WORDS = ("<unk>", "the", "sky", "is", "blue")


@pytest.fixture(scope="module")
def words() -> Any:
    """Knows four words, and is for one unknown token where there are several."""
    raw = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")


def records(*texts: str) -> list[Record]:
    return [
        Record(Origin(n, "in", n, n, n + 1), b"{}", str(n), (), (text,))
        for n, text in enumerate(texts)
    ]


def test_different_texts_that_all_become_the_same_tokens_are_refused(words):
    texts = "the river", "the house", "the old", "the river"
    with pytest.raises(UsageError, match=r"first 4 records have different texts, and the same 2"):
        doubts(records(*texts), words)
    (note,) = doubts(records(*texts[:2]), words)
    assert note == "2 of the first 2 records have the same tokens, of other texts"
    with pytest.raises(UsageError, match=r"all tokens of the first 3 records are '<unk>'.*--field"):
        doubts(records("a", "a river", "three more words"), words)


def test_texts_that_the_tokenizer_may_take_for_the_same_are_not(words):
    assert doubts(records("the  sky", "the sky", "the\nsky "), words) == []
    assert doubts(records("blue"), words) == []
    assert doubts([], words) == []


def test_records_that_are_nearly_all_alike_are_said(words):
    different = "the sky is blue"
    same = ["the sky"] * 9
    (note,) = doubts(records(*same, different), words)
    assert note == "9 of the first 10 records have the same text"
    alike = [f"the sky is {n}" for n in range(18)]
    (note,) = doubts(records(*alike, different, "sky"), words)
    assert note == "18 of the first 20 records have the same tokens, of other texts"
    assert doubts(records(*same[1:], different, "sky"), words) == []
    assert doubts(records(*same[2:]), words) == []


def test_texts_of_mostly_unknown_tokens_are_said(words):
    (note,) = doubts(records("the river runs", "the house of"), words)[:1]
    assert note.startswith("67% of the tokens of the first 2 records are '<unk>'")
    assert doubts(records("the sky runs", "the sky"), words) == []


def test_a_text_on_which_the_tokenizer_fails_is_left_to_the_run(words):
    def raising(*_: Any, **__: Any) -> Any:
        raise ValueError("not this text")

    assert doubts(records("the river", "the house"), raising) == []


def loader(tmp_path, **settings: Any) -> Loader:
    config = RunConfig(paths=[str(tmp_path / "in.jsonl")], kind="text", **settings)
    return Loader(expand(config.paths), config, ignore, RetryPolicy())


def rows(loader: Loader, how: Tokenizing) -> Iterator[int]:
    while (chunk := loader.next_chunk(how)) is not None:
        yield from (record.origin.row for record in chunk.records)


@pytest.fixture
def how(words) -> Tokenizing:
    return Tokenizing(words, None, 64, "reject", len(WORDS))


@pytest.mark.parametrize("limit", [None, 7])
def test_what_is_looked_at_is_read_again(tmp_path, how, limit):
    lines = ["no record" if n == 3 else f'{{"text": "the sky {n}"}}' for n in range(150)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    reading = loader(tmp_path, limit=limit)
    first = reading.first_records()
    looked_at = limit or CHUNK_RECORDS
    assert [one.origin.row for one in first] == [n for n in range(looked_at) if n != 3]
    assert list(rows(reading, how)) == list(range(limit or 150))


def test_an_error_behind_the_first_records_is_raised_where_they_are_measured(
    tmp_path, how, monkeypatch
):
    (tmp_path / "in.jsonl").write_text('{"text": "the sky"}\n' * 5)

    def breaking(*args: Any) -> Iterator[Any]:
        for number, item in enumerate(whole(*args)):
            if number == 3:
                raise OSError("the disk is gone")
            yield item

    whole = loader_module.read_items
    monkeypatch.setattr(loader_module, "read_items", breaking)
    reading = loader(tmp_path)
    assert len(reading.first_records()) == 3
    with pytest.raises(OSError, match="the disk is gone"):
        list(rows(reading, how))
