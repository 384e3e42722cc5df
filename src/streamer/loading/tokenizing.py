"""From text to token ids, many records at once, with the model's own fast tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from streamer.records import Loaded, Record, Rejection, TokenizedRecord


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
    """Each record tokenized, or rejected for having no token or too many."""
    if not records:
        return []
    texts = [text for record in records for text in record.texts]
    encoded = how.tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, verbose=False
    )["input_ids"]
    passages = iter([_with_bos(ids, how.bos) for ids in encoded])
    loaded: list[Loaded] = []
    for record in records:
        tokens = tuple(next(passages) for _ in record.texts)
        longest, shortest = max(map(len, tokens)), min(map(len, tokens))
        if not shortest:
            loaded.append(_reject(record, "the tokenizer made no token of it"))
        elif longest > how.context and how.too_long == "reject":
            reason = f"longer than the model's context of {how.context:,}: {longest:,} tokens"
            loaded.append(_reject(record, reason))
        elif len(tokens) > 1 and len(tokens[0]) >= how.context:
            reason = f"the prompt alone fills the model's context of {how.context:,}"
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


def _with_bos(ids: list[int], bos: int | None) -> npt.NDArray[np.int32]:
    if bos is not None and ids[:1] != [bos]:
        ids = [bos, *ids]
    return np.array(ids, dtype=np.int32)


def _reject(record: Record, reason: str) -> Rejection:
    return Rejection(record.origin, reason, record.raw, len(record.raw))
