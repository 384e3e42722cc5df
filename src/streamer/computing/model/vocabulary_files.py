"""Tokenizers of the time before `tokenizer.json`: Hugging Face makes one from what there is, or
makes one up; so what it made is compared with the files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from streamer.computing.model.find import first_line
from streamer.errors import UsageError

BYTE_PAIRS = ("vocab.json", "merges.txt")
SENTENCEPIECE = "tokenizer.model"
VOCABULARIES = (*BYTE_PAIRS, SENTENCEPIECE, "tekken.json", "vocab.txt", "spiece.model")
"""Files that may hold a vocabulary. Only the first three can be checked, and so be read here."""
ADVICE = (
    "Put the model's own tokenizer.json beside its config.json: "
    "AutoTokenizer.from_pretrained(…).save_pretrained(…) writes one, in the version of "
    "Hugging Face's transformers that the model was made with."
)


def has_no_tokenizer(path: str) -> UsageError:
    """The error for a model without any file of a tokenizer."""
    return UsageError(
        f"the model {path} has no tokenizer: there is no tokenizer.json, nor any of "
        f"{', '.join(VOCABULARIES)}. {ADVICE}"
    )


def converted(
    path: str, found: Mapping[str, Path], asked: Any, why: str, probes: Sequence[str]
) -> tuple[Any, tuple[str, ...], str]:
    """The Rust tokenizer of `asked`, which Hugging Face made of the files `found`, those among them
    that it was made from, and a note. `why`: why it made none, if `asked` is None.

    :raises UsageError: it is not theirs, or cannot be checked: then another may have been made up.
    """
    files: tuple[str, ...] = BYTE_PAIRS
    apart: Callable[[Path, Any, Sequence[str]], str]
    if set(BYTE_PAIRS) <= found.keys():
        apart = _unlike_vocabulary
    elif SENTENCEPIECE in found:
        files, apart = (SENTENCEPIECE,), _unlike_sentencepiece
    else:
        raise UsageError(
            f"the model {path} has no fast tokenizer: there is no tokenizer.json, and of "
            f"{', '.join(found)} alone none is made. {ADVICE}"
        )
    named = " and ".join(files)
    if asked is None or not asked.is_fast:
        because = why or f"{type(asked).__name__} is a slow one"
        raise UsageError(
            f"the model {path} has no fast tokenizer: there is no tokenizer.json, and Hugging Face "
            f"makes none of {named}: {because}. {ADVICE}"
        )
    difference = apart(found[files[0]], asked, probes)
    if difference:
        raise UsageError(
            f"the tokenizer of the model {path} is not read right: there is no tokenizer.json, and "
            f"what Hugging Face makes of {named} differs from it: {difference}. {ADVICE}"
        )
    note = f"the model has no tokenizer.json: {type(asked).__name__} makes tokens from {named}"
    return asked.backend_tokenizer, files, note


def _unlike_vocabulary(file: Path, asked: Any, _: Sequence[str]) -> str:
    """A token of a vocab.json to which `asked` gives another id; empty where there is none."""
    made = asked.get_vocab()
    try:
        vocabulary = orjson.loads(file.read_bytes())
        token = next((token for token, n in vocabulary.items() if made.get(token) != n), None)
    except (ValueError, AttributeError) as error:
        return f"{file.name} is damaged: {first_line(error)}"
    if token is None:
        return ""
    return f"the token {token!r} is {made.get(token)} and not {vocabulary[token]}"


def _unlike_sentencepiece(file: Path, asked: Any, probes: Sequence[str]) -> str:
    """A text of which `asked` makes other ids than the SentencePiece library itself does."""
    from sentencepiece import SentencePieceProcessor  # noqa: PLC0415

    try:
        own = SentencePieceProcessor(model_file=str(file)).encode(list(probes))
    except Exception as error:  # a damaged file, or one of another library under that name
        return f"{file.name} is none of SentencePiece's: {first_line(error)}"
    made = asked(list(probes), add_special_tokens=False)["input_ids"]
    for text, ids, other in zip(probes, own, made, strict=True):
        if ids != list(other):
            return f"of {text!r} it makes {len(other)} tokens, {other[:6]}…, and not {ids[:6]}…"
    return ""
