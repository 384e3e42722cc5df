"""From text to token ids, many records at once, with the model's own fast tokenizer."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from streamer.errors import RunFault, one_line
from streamer.loading.encoding import Encoder, fails_on_text
from streamer.records import Loaded, Record, Rejection, TokenizedRecord

PLAIN = "a"
"""Any working tokenizer encodes it without an error."""


@dataclass(frozen=True, slots=True)
class Tokenizing:
    """How text becomes tokens for one model and its SAEs."""

    tokenizer: Any
    """A fast Hugging Face tokenizer."""
    bos: int | None
    """Put before every passage; None for no BOS. Not added to text that already begins with it."""
    context: int
    """Most tokens in a passage, BOS included."""
    too_long: Literal["reject", "truncate"]
    embeds: int
    """How many token ids the model embeds, from 0. The tokenizer may have more."""
    encoder: Encoder = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoder", Encoder(self.tokenizer))  # as it is frozen


def tokenize(records: Sequence[Record], how: Tokenizing) -> list[Loaded]:
    """Each record tokenized, or rejected for having no token, too many or one that the model does
    not embed, or because the tokenizer fails on it.

    :raises RunFault: the tokenizer fails on any text.
    """
    return [
        _reject(record, found) if isinstance(found, str) else _fitted(record, found, how)
        for record, found in zip(records, _passages(records, how), strict=True)
    ]


def _fitted(record: Record, passages: Sequence[list[int]], how: Tokenizing) -> Loaded:
    """`record` with the ids of its passages, if they fit the context or may be truncated to it."""
    lengths = [len(ids) for ids in passages]
    longest = max(lengths)
    if not min(lengths):
        return _reject(record, "the tokenizer made no token of it")
    if longest > how.context and how.too_long == "reject":
        return _reject(record, f"longer than the context of {how.context:,}: {longest:,} tokens")
    if len(lengths) > 1 and lengths[0] >= how.context:
        return _reject(record, f"the prompt alone fills the context of {how.context:,}")
    if longest > how.context:
        passages = [ids[: how.context] for ids in passages]
    joined = np.array(list(itertools.chain.from_iterable(passages)), dtype=np.int32)
    largest = int(joined.max())
    if largest >= how.embeds:
        token = how.tokenizer.convert_ids_to_tokens(largest)
        return _reject(
            record,
            f"token {token!r} ({largest}) of the vocabulary has no embedding: it is not among the "
            f"{how.embeds} that the model embeds",
        )
    return TokenizedRecord(
        record.origin,
        record.raw,
        record.id,
        record.carried,
        _cut(joined, passages),
        truncated=longest > how.context,
    )


def _cut(
    joined: npt.NDArray[np.int32], passages: Sequence[list[int]]
) -> tuple[npt.NDArray[np.int32], ...]:
    """Each passage, as parts of one array: making one takes longer than cutting it."""
    ends = itertools.accumulate(map(len, passages), initial=0)
    return tuple([joined[begin:end] for begin, end in itertools.pairwise(ends)])


def _reject(record: Record, reason: str) -> Rejection:
    return Rejection(record.origin, reason, record.raw, len(record.raw))


def _passages(records: Sequence[Record], how: Tokenizing) -> Sequence[list[list[int]] | str]:
    """Token ids of each record's passages, or why the tokenizer has none."""
    if not records:
        return []
    try:
        return _encode([record.texts for record in records], how)
    except BaseException as error:
        if not fails_on_text(error):
            raise
    return [_one_by_one(record, how) for record in records]


def _one_by_one(record: Record, how: Tokenizing) -> list[list[int]] | str:
    try:
        return _encode([record.texts], how)[0]
    except BaseException as error:
        if not fails_on_text(error):
            raise
        reason = f"the tokenizer raised {one_line(error)}"
    try:
        _encode([[PLAIN]], how)
    except BaseException as error:
        if not fails_on_text(error):
            raise
        raise RunFault(
            f"{reason} (at record {record.origin.position} of {record.origin.source}), and then on "
            f"{PLAIN!r} as well: it is broken. No record was rejected for it. Check the "
            f"tokenizer's files, and run again"
        ) from error
    return reason


def _encode(texts: Sequence[Sequence[str]], how: Tokenizing) -> list[list[list[int]]]:
    """Token ids of each passage of each record, BOS before them."""
    encoded = how.encoder.encode(texts)
    if how.bos is not None:
        for ids in itertools.chain.from_iterable(encoded):
            if not ids or ids[0] != how.bos:
                ids.insert(0, how.bos)
    return encoded
