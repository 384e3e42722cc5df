"""The tokenizer: the one in the model's files, whatever the libraries make of them.

`tokenizer.json` is the whole of it, and is what is used. Hugging Face's `AutoTokenizer` may build
another from parts of it, or one of five words where there is no file; TransformerLens adds tokens
and takes EOS for BOS. AutoTokenizer is asked all the same: it knows which token is BOS where the
files leave that to the model's type, and where it makes other ids, that is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import cached_file

from streamer.computing.model.find import first_line
from streamer.computing.model.vocabulary_files import VOCABULARIES, converted, has_no_tokenizer
from streamer.errors import UsageError

JSON = "tokenizer.json"
PROBES = (
    "The sky over Paris is blue.",
    " 1234567 items in 1969, 3.14 or 12,345",
    "two  blanks,   three\tand a tab ",
    "a line\n\nand another\r\n    indented",
    "CAPITALS, camelCase and McDonald's; don't, we'll",
    "naïve façade Ünïcödé e\N{COMBINING ACUTE ACCENT} ﬁ ½",
    "漢字とかな 한국어 العربية हिन्दी",
    "🙂 ☕\N{VARIATION SELECTOR-16} 👩\N{ZERO WIDTH JOINER}🚀",
    "“quoted” – x=1; {}() #@ <a href='#'>",
)
"""Texts in which tokenizers differ that do not normalize, cut or merge alike."""
MOST_DECLARED = 256
"""Tokens beside the vocabulary that are tried as well, each between words."""
ROLES = ("bos_token", "eos_token", "unk_token")


@dataclass(frozen=True, slots=True)
class ModelTokenizer:
    """A model's tokenizer, as its files have it."""

    fast: Any
    """A fast Hugging Face tokenizer that makes the ids of the files. Its BOS, EOS and unknown
    token, where it has them, are in their vocabulary."""
    files: tuple[str, ...]
    """What it was made from."""
    notes: tuple[str, ...]
    """What the user should know about it."""
    is_transformers: bool = True
    """Whether AutoTokenizer makes the same ids of texts without special tokens."""


class FileTokenizer(PreTrainedTokenizerFast):  # type: ignore[misc]
    """Hugging Face's interface to a tokenizer of the Rust library, to which nothing is added."""

    def __init__(self, backend: Tokenizer) -> None:
        self._tokenizer = backend  # as `tokenizer_object`, it would be copied first
        super().__init__()


def read_tokenizer(path: str, revision: str | None, *, trust_remote_code: bool) -> ModelTokenizer:
    """The tokenizer in the files of the model at `path`, a directory or hub name. Nothing is
    installed, no other model's files are read, and no code of its own is run unless it is trusted.

    :raises UsageError: there is none, it is damaged, or nothing here can read it.
    """
    file = _file(path, JSON, revision)
    others = {} if file else {name: _file(path, name, revision) for name in VOCABULARIES}
    if not file and not any(others.values()):
        raise has_no_tokenizer(path)
    asked, why = _ask_transformers(path, revision, trust_remote_code=trust_remote_code)
    if file is None:
        found = {name: one for name, one in others.items() if one is not None}
        backend, files, note = converted(path, found, asked, why, PROBES)
        notes, agrees = [*_make_plain(backend), note], True
    else:
        backend, notes, agrees = _from_json(path, file, asked, why)
        files = (JSON,)
    fast = FileTokenizer(backend)
    for role in ROLES:
        token = _named(path, revision, role) if asked is None else getattr(asked, role)
        token = token or getattr(backend.model, role, None)
        if token is not None and backend.token_to_id(token) is not None:
            setattr(fast, role, token)
    in_front = _in_front(backend)
    if fast.bos_token is None and in_front is not None:
        fast.bos_token = in_front
        notes.append(f"BOS is {in_front!r}: no file names one, and {JSON} begins texts with it")
    return ModelTokenizer(fast, files, tuple(notes), agrees)


def stand_in() -> PreTrainedTokenizerFast:
    """A tokenizer of one word, for TransformerLens, which would load one of its own choice."""
    only = models.WordLevel({"a": 0}, unk_token="a")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(only))


def _file(path: str, name: str, revision: str | None) -> Path | None:
    """Where the file `name` of the model is on this machine; from the hub, it is downloaded."""
    missing = {"_raise_exceptions_for_missing_entries": False}
    found = cached_file(path, name, revision=revision, **missing)
    return None if found is None else Path(found)


def _ask_transformers(
    path: str, revision: str | None, *, trust_remote_code: bool
) -> tuple[Any, str]:
    """What Hugging Face makes of the model's files, or None and why nothing."""
    try:
        asked = AutoTokenizer.from_pretrained(
            path,
            revision=revision,
            trust_remote_code=trust_remote_code,
            local_files_only=Path(path).is_dir(),
        )
    except Exception as error:  # whatever a damaged or strange model makes of the library
        return None, f"{type(error).__name__}: {first_line(error)}"
    return asked, ""


def _from_json(path: str, file: Path, asked: Any, why: str) -> tuple[Tokenizer, list[str], bool]:
    """The tokenizer in `file`, what is to be said about it, and whether `asked` agrees with it.

    :raises UsageError: it is damaged.
    """
    try:
        backend = Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises nothing more precise
        raise UsageError(
            f"the {JSON} of the model {path} is damaged: {first_line(error)}. Copy it again."
        ) from error
    notes = _make_plain(backend)
    if asked is None:
        note = f"tokens are those of {JSON}, which AutoTokenizer cannot load: {why}"
        return backend, [*notes, note], True
    if asked.is_fast:
        _make_plain(asked.backend_tokenizer)
    for texts in (PROBES, _between_words(backend, asked)):
        other = _difference(backend, asked, texts) if texts else ""
        if other:
            return backend, [*notes, other], texts is not PROBES
    return backend, notes, True


def _difference(backend: Tokenizer, asked: Any, texts: Sequence[str]) -> str:
    """Of which text `asked` makes other ids than `backend`; empty where of none."""
    own = [one.ids for one in backend.encode_batch(texts, add_special_tokens=False)]
    try:
        others: Sequence[list[int]] = asked([*texts], add_special_tokens=False)["input_ids"]
    except Exception as error:  # the model's own code
        return f"tokens are those of {JSON}; AutoTokenizer raises {first_line(error)}"
    for text, ids, other in zip(texts, own, others, strict=True):
        if ids != list(other):
            return (
                f"tokens are those of {JSON}: AutoTokenizer ({type(asked).__name__}) makes others, "
                f"for instance of {text!r} {len(other)} tokens instead of {len(ids)}, "
                f"{_first_apart(backend, ids, other)}"
            )
    return ""


def _between_words(backend: Tokenizer, asked: Any) -> list[str]:
    """Texts with the tokens that either adds to the vocabulary."""
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    others = [token for token in getattr(asked, "added_tokens_encoder", ()) if token not in added]
    return [f"one {token} two{token}" for token in (*others, *added)[:MOST_DECLARED]]


def _first_apart(backend: Tokenizer, ids: Sequence[int], other: Sequence[int]) -> str:
    """Where two lists of ids go apart, in words."""
    at = next((n for n, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), None)
    if at is None:
        return "the one with the other's beginning"
    return f"and {other[at]} where the file has {ids[at]} ({backend.id_to_token(ids[at])!r})"


def _make_plain(backend: Tokenizer) -> list[str]:
    """Without what is meant for training; a note where it changes ids."""
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None
        return [f"the dropout of {JSON} is off: it would merge at random"]
    return []


def _named(path: str, revision: str | None, role: str) -> str | None:
    """The token that the model's files name for a role, where Hugging Face cannot read them.

    :raises UsageError: they are damaged.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = _file(path, name, revision)
        if file is None:
            continue
        try:
            token = orjson.loads(file.read_bytes()).get(role)
        except (ValueError, AttributeError) as error:
            raise UsageError(
                f"the {name} of the model {path} is damaged: {first_line(error)}. Copy it again."
            ) from error
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    return None


def _in_front(backend: Tokenizer) -> str | None:
    """The token that it puts in front of every text, if that is all it puts there."""
    plain = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a").ids
    if len(whole) > len(plain) and whole[1 : 1 + len(plain)] == plain:
        token: str | None = backend.id_to_token(whole[0])
        return token
    return None
