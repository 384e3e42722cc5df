"""What an item says, and why it is rejected."""

import json

import pytest

from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.loading.parsing import Fields, parse, settle_fields
from streamer.loading.sources import Source
from streamer.records import Item, Origin, Record, Rejection

CONTRAST = {"id": "id", "prompt": "prompt", "fact": "fact", "hallucination": "hallucination"}
SOURCE = Source("data/geo.jsonl", "data/geo.jsonl", None)


def item(raw: bytes, row: int = 7) -> Item:
    return Item(Origin(row, SOURCE.name, row, 100, 100 + len(raw)), raw, len(raw))


def parsed(raw: bytes, **changes) -> Record | Rejection:
    settings = {"kind": "text", "keys": {"id": "id", "text": "text"}, "carry": {}, "max_bytes": 999}
    settings["separator"] = " "
    return parse(item(raw), Fields(**(settings | changes)))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"text": "a"', "malformed JSON: unexpected end of data at character 12 of the record"),
        (b"{'text': 'a'}", "malformed JSON"),
        (b'{"text": "\xff"}', "invalid UTF-8: invalid start byte at byte 10 of the record"),
        (b'{"text": "\\ud800"}', "malformed JSON"),
        (b'{"text": "a\0b"}', "malformed JSON"),
        (b'{"text": "a\\u0000b"}', "contains a NUL"),
        (b"[1, 2]", "an array, not an object"),
        (b"null", "null, not an object"),
        (b"3.5", "a number, not an object"),
        (b'{"words": "a"}', "'text' is missing"),
        (b'{"text": null}', "'text' is null, not a string"),
        (b'{"text": 3}', "'text' is an integer, not a string"),
        (b'{"text": ""}', "'text' is empty"),
        (b'{"text": " \\n"}', "'text' is empty"),
        (b'{"text": "a", "id": [1]}', "'id' is an array, not a string or a number"),
        (b'{"text": "a", "id": true}', "'id' is a boolean, not a string or a number"),
        (b'{"text": "' + b"a" * 1000 + b'"}', "longer than max_record_bytes = 999"),
    ],
)
def test_a_bad_record_is_rejected_with_its_reason_place_and_text(raw, reason):
    rejection = parsed(raw)
    assert isinstance(rejection, Rejection)
    assert reason in rejection.reason
    assert (rejection.origin.row, rejection.origin.offset, rejection.raw) == (7, 100, raw)


def test_a_contrast_record_has_three_passages():
    raw = b'{"id": 3, "prompt": "The sky is", "fact": "blue", "hallucination": "green"}'
    record = parsed(raw, kind="contrast", keys=CONTRAST)
    assert record.texts == ("The sky is", "The sky is blue", "The sky is green")
    assert record.id == "3"


@pytest.mark.parametrize(
    ("prompt", "separator", "fact"),
    [
        ("Q: the sky? A: ", "", "Q: the sky? A: blue"),
        ("Q: the sky? A: ", " ", "Q: the sky? A:  blue"),
        ("The sky", "\nis ", "The sky\nis blue"),
    ],
)
def test_prompt_and_end_are_put_together_with_the_separator_as_they_are(prompt, separator, fact):
    raw = json.dumps({"prompt": prompt, "fact": "blue", "hallucination": "green"}).encode()
    record = parsed(raw, kind="contrast", keys=CONTRAST, separator=separator)
    assert record.texts == (prompt, fact, fact.replace("blue", "green"))
    fields, _ = settle_fields(RunConfig(separator=separator), iter([item(raw)]))
    assert fields.separator == separator


def test_an_id_is_made_from_file_and_position():
    assert parsed(b'{"text": "a"}').id == "geo:7"


def test_carried_fields_have_their_declared_types():
    carry = {"domain": "string", "n": "int64", "x": "float64", "ok": "bool"}
    full = parsed(b'{"text": "a", "domain": "sky", "n": 2, "x": 1, "ok": true}', carry=carry)
    assert full.carried == ("sky", 2, 1.0, True)
    assert parsed(b'{"text": "a"}', carry=carry).carried == ("geo", None, None, None)
    assert parsed(b'{"text": "a", "domain": 3}', carry=carry).carried[0] == "3"
    assert parsed(b'{"text": "a", "domain": [3]}', carry=carry).carried[0] == "geo"
    for raw, reason in (
        (b'{"text": "a", "n": "2"}', "'n' is a string, declared as int64"),
        (b'{"text": "a", "n": true}', "'n' is a boolean, declared as int64"),
        (b'{"text": "a", "n": 18446744073709551615}', "too large for int64"),
    ):
        assert reason in parsed(raw, carry=carry).reason


def test_the_kind_is_that_of_the_first_object_that_has_one():
    rubbish, text = item(b"rubbish"), item(b'{"text": "a"}')
    contrast = item(b'{"prompt": "a", "fact": "b", "hallucination": "c"}')
    for first, kind in ((text, "text"), (contrast, "contrast")):
        fields, taken = settle_fields(RunConfig(), iter([rubbish, first, text]))
        assert (fields.kind, taken) == (kind, [rubbish, first])
    assert settle_fields(RunConfig(), iter([rubbish]))[0].kind == "contrast"


def test_a_mapped_field_settles_the_kind_and_is_read():
    first = item(b'{"question": "a", "prompt": "b", "fact": "c", "hallucination": "d"}')
    fields, taken = settle_fields(RunConfig(field={"text": "question"}), iter([None, first]))
    assert (fields.kind, fields.keys["text"], taken) == ("text", "question", [first])


def test_a_mapped_field_that_no_record_has_is_told_before_the_run():
    config = RunConfig(field={"text": "sentance"})
    with pytest.raises(UsageError, match=r"has the keys sentence; a text record has sentance"):
        settle_fields(config, iter([item(b'{"sentence": "a"}')]))


def test_records_of_no_kind_are_told_before_the_run():
    with pytest.raises(UsageError, match=r"record 7, has the keys question, answer.*--field text="):
        settle_fields(RunConfig(), iter([item(b'{"question": "a", "answer": "b"}')]))
