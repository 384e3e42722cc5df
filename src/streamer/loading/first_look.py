"""Whether the first records become tokens that say anything about them, looked at before a run."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from streamer.errors import UsageError
from streamer.loading.encoding import fails_on_text
from streamer.records import Record

NEARLY_ALL = 0.9
MOSTLY = 0.5
FEW = 10
"""Fewer records may be nearly all alike by chance."""
VERY_FEW = 3
"""Fewer texts than this may even become the same tokens."""


def doubts(records: Sequence[Record], tokenizer: Any) -> list[str]:
    """What the user should know of the tokens that `tokenizer` makes of `records`, the first of an
    input: that nearly all are alike, or mostly of tokens that it does not know.

    :raises UsageError: three different texts, or more, all have the same ids, or unknown
        tokens alone.
    """
    try:
        ids = _ids(records, tokenizer)
    except BaseException as error:
        if not (fails_on_text(error) or isinstance(error, MemoryError)):
            raise
        return []  # the run meets it again, where it can say which record it is
    texts = len({_letters(record) for record in records})
    return [*_unknown(ids, tokenizer, texts), *_alike(records, ids, texts)]


def _ids(records: Sequence[Record], tokenizer: Any) -> list[tuple[tuple[int, ...], ...]]:
    """Of each record, those of each passage, as Hugging Face's interface gives them."""
    if not records:
        return []
    texts = [text for record in records for text in record.texts]
    flat = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
    return [tuple(tuple(next(flat)) for _ in record.texts) for record in records]


def _letters(record: Record) -> str:
    """Its texts without what a tokenizer may leave out: case, accents and blanks."""
    whole = unicodedata.normalize("NFKD", "\0".join(record.texts)).casefold()
    return "".join(c for c in whole if not (c.isspace() or unicodedata.combining(c)))


def _unknown(ids: Sequence[Sequence[Sequence[int]]], tokenizer: Any, texts: int) -> list[str]:
    every = [token for passages in ids for passage in passages for token in passage]
    unknown = tokenizer.unk_token_id
    share = every.count(unknown) / len(every) if every and unknown is not None else 0.0
    said = f"{tokenizer.unk_token!r}, the token for what the tokenizer does not know"
    if share == 1 and texts >= VERY_FEW:
        raise UsageError(
            f"all tokens of the first {len(ids):,} records are {said}. Check that the tokenizer is "
            f"the model's, that the model reads this language, and with --field what is read."
        )
    if share > MOSTLY:
        return [f"{share:.0%} of the tokens of the first {len(ids):,} records are {said}"]
    return []


def _alike(
    records: Sequence[Record], ids: Sequence[Sequence[Sequence[int]]], texts: int
) -> list[str]:
    if not records:
        return []
    (most, count), *others = Counter(map(tuple, ids)).most_common()
    if texts >= VERY_FEW and not others:
        raise UsageError(
            f"the first {len(records):,} records have different texts, and the same "
            f"{len(most[-1]):,} tokens, so that all numbers would be equal. Check that the "
            f"tokenizer in the model's files is the model's, and is whole."
        )
    by_chance = len(records) < FEW and (others or texts == 1)
    if by_chance or count < NEARLY_ALL * len(records):
        return []
    same = [record for record, one in zip(records, ids, strict=True) if one == most]
    what = "text" if len({_letters(record) for record in same}) == 1 else "tokens, of other texts"
    return [f"{count:,} of the first {len(records):,} records have the same {what}"]
