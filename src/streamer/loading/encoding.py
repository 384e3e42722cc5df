"""From texts to token ids by the fastest way that gives the ids of the Hugging Face tokenizer.

Its Python wrapper takes as long again as the Rust tokenizer underneath, which is called directly
if the wrapper adds nothing. And the endings of a contrast record are tokenized without their prompt
if that provably makes no difference: it saves two thirds of the tokens.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import orjson

WRAPPER_METHODS = ("__call__", "_encode_plus", "_convert_encoding")
"""Methods that a tokenizer's class may override to change the ids of the Rust tokenizer."""
WORDS = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama-3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen-2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""Patterns that cut text into words. None matches a space behind anything but space, and none looks
further than at the character behind a run of spaces: between a character that is no space and a
space there is always a cut, whatever stands before and behind."""
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What stands for a space in the vocabularies of SentencePiece."""
SAMPLES = (
    ("The sky is", "The sky is blue", "The sky is  12,345 ¼ naïve!"),
    ("Who's there?\n\nIt's", "Who's there?\n\nIt's me.\n", "Who's there?\n\nIt's <bos></s> 漢字"),
    ("3.14 =", "3.14 = π ☕\N{VARIATION SELECTOR-16}", "3.14 = \N{COMBINING ACUTE ACCENT}e"),
)


class Encoder:
    """Encodes the passages of records with `tokenizer`, a fast Hugging Face one, without special
    tokens. The first call chooses the method, which takes a second for a large vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._is_settled = False
        self._backend: Any = None
        """The Rust tokenizer, where the wrapper adds nothing to it."""
        self._cuts_at_spaces = False

    def encode(self, records: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """The token ids of each passage of `records`. Raises what the tokenizer raises,
        including a panic in Rust."""
        if not self._is_settled:
            self._settle()
        return self._encoded(records)

    def _settle(self) -> None:
        """Use each shortcut that gives the wrapper's ids on `SAMPLES`."""
        self._is_settled = True
        if not _wraps_only(self._tokenizer):
            return
        try:
            expected = self._encoded(SAMPLES)
            self._backend = self._tokenizer.backend_tokenizer
            if self._encoded(SAMPLES) != expected:
                self._backend = None
            elif cuts_at_spaces(self._backend):
                self._cuts_at_spaces = True
                self._cuts_at_spaces = self._encoded(SAMPLES) == expected
        except BaseException as error:
            if not fails_on_text(error):
                raise
            self._backend, self._cuts_at_spaces = None, False

    def _encoded(self, records: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        cuts = [_cut_of(texts) if self._cuts_at_spaces else 0 for texts in records]
        parts: list[str] = []
        for texts, cut in zip(records, cuts, strict=True):
            parts.append(texts[0])
            parts += [text[cut:] for text in texts[1:]]
        encoded = iter(self._flat(parts))
        found = []
        for texts, cut in zip(records, cuts, strict=True):
            passages = list(itertools.islice(encoded, len(texts)))
            if cut:
                first = passages[0]
                passages[1:] = [first + ids for ids in passages[1:]]
            found.append(passages)
        return found

    def _flat(self, texts: Sequence[str]) -> list[list[int]]:
        if self._backend is None:
            return self._by_wrapper(texts)
        if self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _by_wrapper(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded: list[list[int]] = self._tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return encoded


def fails_on_text(error: BaseException) -> bool:
    """Whether another text may succeed. A panic in Rust is a BaseException of its own."""
    if type(error).__name__ == "PanicException":
        return True
    return isinstance(error, Exception) and not isinstance(error, MemoryError)


def cuts_at_spaces(backend: Any) -> bool:
    """Whether the Rust tokenizer `backend` makes of any two texts, the first of which ends with a
    printable character other than a space and the second of which begins with a space, together
    what it makes of each.

    It does if its words end there, each of which is tokenized by itself; or if it tokenizes the
    whole by merging pairs and no token has a space behind another character, as then no pair is
    ever merged across the two.
    """
    try:
        parts = orjson.loads(backend.to_str())
    except Exception:  # written in Python
        return False
    model, normalizer, cutters = parts["model"], parts["normalizer"], _flattened(parts)
    across = re.compile(rf"[^\s{SPACE}][ {SPACE}]")
    if any(token["rstrip"] or across.search(token["content"]) for token in parts["added_tokens"]):
        return False
    if normalizer is None or normalizer == {"type": "NFC"}:  # which leaves a space alone
        return (
            not model.get("dropout")
            and all(map(_keeps_the_cut, cutters))
            and any(map(_cuts_words, cutters))
        )
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    without_effect = all(cutter.get("pattern") == {"String": " "} for cutter in cutters)
    return (
        normalizer == replaces
        and without_effect
        and model["type"] == "BPE"
        and not (model["dropout"] or model["ignore_merges"])
        and not (model["continuing_subword_prefix"] or model["end_of_word_suffix"])
        and SPACE in model["vocab"]
        and not any(across.search(token) for token in model["vocab"])
    )


def _flattened(parts: dict[str, Any]) -> list[dict[str, Any]]:
    """The pre-tokenizers, in turn."""
    first = parts["pre_tokenizer"]
    if first is None:
        return []
    return list(first["pretokenizers"]) if first["type"] == "Sequence" else [first]


def _keeps_the_cut(cutter: dict[str, Any]) -> bool:
    """Whether it makes the same of a text and of its parts before and from a space on."""
    if cutter["type"] == "ByteLevel":
        return not cutter["add_prefix_space"]
    return cutter["type"] == "Digits" or _cuts_words(cutter)


def _cuts_words(cutter: dict[str, Any]) -> bool:
    if cutter["type"] == "ByteLevel":
        return bool(cutter["use_regex"])
    return (
        cutter["type"] == "Split"
        and cutter["pattern"].get("Regex") in WORDS.values()
        and cutter["behavior"] == "Isolated"
        and not cutter["invert"]
    )


def _wraps_only(tokenizer: Any) -> bool:
    """Whether its class leaves encoding to the Rust tokenizer, as transformers' own base does."""
    for name in WRAPPER_METHODS:
        owner = next((one for one in type(tokenizer).__mro__ if name in vars(one)), object)
        if not owner.__module__.startswith("transformers.tokenization_utils"):
            return False
    return not getattr(tokenizer, "split_special_tokens", False)


def _cut_of(texts: Sequence[str]) -> int:
    """How long the first text is, if all others continue it in a way that may be cut off; else 0.

    A text that ends with a blank, or with what some tokenizer may take for one, is not cut off.
    """
    first = texts[0]
    begin = first + " "
    for text in texts[1:]:
        if not text.startswith(begin):
            return 0
    return len(first) if first[-1:].isprintable() and not first.endswith((" ", SPACE)) else 0
