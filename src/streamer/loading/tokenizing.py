"""From text to token ids, many records at once, with the model's own fast tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from streamer.errors import RunFault, one_line
from streamer.records import Loaded, Record, Rejection, TokenizedRecord

PLAIN = "a"
"""Any tokenizer that works has tokens for it, or none."""


@dataclass(frozen=True, slots=True)
class Tokenizing:
    """How text becomes tokens for one model and its SAEs."""

    tokenizer: Any
    """A fast Hugging Face tokenizer."""
    bos: int | None
    """Put before every passage; None for no BOS. Text that itself begins with it gets no second."""
    context: int
    """Most tokens in a passage, BOS included."""
    too_long: Literal["reject", "truncate"]


def tokenize(records: Sequence[Record], how: Tokenizing) -> list[Loaded]:
    """Each record tokenized, or rejected for having no token or too many, or for what the tokenizer
    raises on it.

    :raises RunFault: the tokenizer fails, whatever the text.
    """
    loaded: list[Loaded] = []
    for record, found in zip(records, _passages(records, how), strict=True):
        if isinstance(found, str):
            loaded.append(_reject(record, found))
            continue
        tokens = tuple(_with_bos(ids, how.bos) for ids in found)
        longest, shortest = max(map(len, tokens)), min(map(len, tokens))
        if not shortest:
            loaded.append(_reject(record, "the tokenizer made no token of it"))
        elif longest > how.context and how.too_long == "reject":
            reason = f"longer than the context of {how.context:,}: {longest:,} tokens"
            loaded.append(_reject(record, reason))
        elif len(tokens) > 1 and len(tokens[0]) >= how.context:
            reason = f"the prompt alone fills the context of {how.context:,}"
            loaded.append(_reject(record, reason))
        else:
            loaded.append(
                TokenizedRecord(
                    record.origin,
                    record.raw,
                    record.id,
                    record.carried,
                    tuple(ids[: how.context] for ids in tokens),
                    truncated=longest > how.context,
                )
            )
    return loaded


def _passages(records: Sequence[Record], how: Tokenizing) -> list[list[list[int]] | str]:
    """Token ids of each record's passages, or why the tokenizer has none."""
    try:
        encoded = iter(_encode([text for record in records for text in record.texts], how))
        return [[next(encoded) for _ in record.texts] for record in records]
    except BaseException as error:
        if not _is_of_the_text(error):
            raise
    return [_one_by_one(record, how) for record in records]


def _one_by_one(record: Record, how: Tokenizing) -> list[list[int]] | str:
    try:
        return _encode(record.texts, how)
    except BaseException as error:
        if not _is_of_the_text(error):
            raise
        reason = f"the tokenizer raised {one_line(error)}"
    try:
        _encode([PLAIN], how)
    except BaseException as error:
        if not _is_of_the_text(error):
            raise
        raise RunFault(
            f"{reason} (at record {record.origin.position} of {record.origin.source}), and then on "
            f"{PLAIN!r} as well: it is broken. No record was rejected for it. Check the "
            f"tokenizer's files, and run again"
        ) from error
    return reason


def _encode(texts: Sequence[str], how: Tokenizing) -> list[list[int]]:
    if not texts:
        return []
    encoded: list[list[int]] = how.tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
    )["input_ids"]
    return encoded


def _is_of_the_text(error: BaseException) -> bool:
    """Whether another text may do better. A panic in Rust is a BaseException by another name."""
    if type(error).__name__ == "PanicException":
        return True
    return isinstance(error, Exception) and not isinstance(error, MemoryError)


def _with_bos(ids: list[int], bos: int | None) -> npt.NDArray[np.int32]:
    if bos is not None and ids[:1] != [bos]:
        ids = [bos, *ids]
    return np.array(ids, dtype=np.int32)


def _reject(record: Record, reason: str) -> Rejection:
    return Rejection(record.origin, reason, record.raw, len(record.raw))
