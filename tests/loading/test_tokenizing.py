"""From text to tokens: BOS once, the context respected, nothing cut in silence."""

import dataclasses

import numpy as np
import pytest

from streamer.loading.tokenizing import Tokenizing, tokenize
from streamer.records import Origin, Record, Rejection, TokenizedRecord


@pytest.fixture(scope="module")
def how(embedded_worker) -> Tokenizing:
    model = embedded_worker("text").model
    return Tokenizing(
        model.tokenizer, model.tokenizer.bos_token_id, model.context, "reject", model.vocabulary
    )


def record(*texts: str) -> Record:
    return Record(Origin(0, "in", 0, 0, 1), b"{}", "r", (), texts)


def ids(how: Tokenizing, text: str) -> list[int]:
    (found,) = tokenize([record(text)], how)
    return found.tokens[0].tolist()


def test_every_passage_begins_with_bos_once(how):
    plain = how.tokenizer("The sky", add_special_tokens=False)["input_ids"]
    assert ids(how, "The sky") == [how.bos, *plain]
    assert ids(how, "<bos>The sky") == [how.bos, *plain]
    assert ids(dataclasses.replace(how, bos=None), "The sky") == plain


def test_many_records_tokenize_as_each_alone(how):
    texts = ["a", "The capital of France is Paris", "naïve café ☕", "  two  spaces "]
    together = tokenize([record(text) for text in texts], how)
    for text, found in zip(texts, together, strict=True):
        assert found.tokens[0].tolist() == ids(how, text)


def test_text_beyond_the_context_is_rejected_or_cut_as_configured(how):
    long, short = record("word " * how.context), record("word")
    rejected, kept = tokenize([long, short], how)
    assert isinstance(rejected, Rejection)
    assert f"{how.context:,}" in rejected.reason
    assert isinstance(kept, TokenizedRecord)
    assert not kept.truncated
    how = dataclasses.replace(how, too_long="truncate")
    rejected, kept = tokenize([record("word " * how.context, "word"), record("a", "b")], how)
    assert isinstance(rejected, Rejection)  # cut, its passages would all be its prompt
    assert isinstance(kept, TokenizedRecord)
    truncated, kept = tokenize([long, short], how)
    assert len(truncated.tokens[0]) == how.context
    assert (truncated.truncated, kept.truncated) == (True, False)


def test_the_key_follows_from_the_tokens_alone(how):
    one, other = (
        TokenizedRecord(Origin(n, "in", n, 0, 1), b"", str(n), (n,), ()) for n in range(2)
    )
    a, b = np.array([1, 2], np.int32), np.array([3], np.int32)
    with_tokens = dataclasses.replace
    assert with_tokens(one, tokens=(a, b)).key == with_tokens(other, tokens=(a, b)).key
    assert with_tokens(one, tokens=(a, b)).key != with_tokens(one, tokens=(b, a)).key
    joined = (np.array([1], np.int32), np.array([2, 3], np.int32))
    assert with_tokens(one, tokens=(a, b)).key != with_tokens(one, tokens=joined).key
