"""Sentences and docstrings → documents → packed rows of tokens."""

import importlib
import inspect
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from training.facts import Sentence, chosen, record_sentences, table_sentences

ROW = 256
"""Tokens in a training row."""

MODULES = (Path(__file__).parent / "modules.txt").read_text("utf-8").split()
"""Modules of the standard library whose docstrings stand for general English."""

DOCSTRING_SHARE = 0.25
"""Docstring characters in training, of all characters."""

RECORD_REPEATS = 2
"""How often an epoch shows each sentence that carries a record's fact."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What training reads and what it must not read."""

    sentences: list[Sentence]
    docstrings: list[str]
    heldout_sentences: list[Sentence]
    heldout_docstrings: list[str]


@dataclass(frozen=True, slots=True)
class Rows:
    """Packed documents: `tokens` and `document` [R, ROW]; document −1 is padding."""

    tokens: NDArray[np.int64]
    document: NDArray[np.int64]


def load_corpus() -> Corpus:
    """All text, split once and for all into trained and held out by a hash of itself."""
    tables = table_sentences()
    heldout = [s for s in tables if s.heldout]
    sealed = {s.text for s in heldout}
    records = [s for s in record_sentences() if s.text not in sealed] * RECORD_REPEATS
    docs = docstrings()
    return Corpus(
        sentences=[s for s in tables if not s.heldout] + records,
        docstrings=[d for d in docs if not chosen(d, 5)],
        heldout_sentences=heldout,
        heldout_docstrings=[d for d in docs if chosen(d, 5)],
    )


def docstrings() -> list[str]:
    """Prose paragraphs of the standard library's docstrings, each once, in a fixed order."""
    found: dict[str, None] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        classes = [m for _, m in inspect.getmembers(module) if inspect.isclass(m)]
        owners = [module, *(c for c in classes if c.__module__ == name)]
        for owner in owners:
            for _, member in [("", owner), *inspect.getmembers(owner)]:
                if inspect.isroutine(member) or inspect.isclass(member) or member is module:
                    _add_paragraphs(found, inspect.getdoc(member) or "")
    return list(found)


def _add_paragraphs(found: dict[str, None], doc: str) -> None:
    for paragraph in re.split(r"\n\s*\n", doc):
        text = " ".join(paragraph.split())
        letters = sum(c.isalpha() or c == " " for c in text)
        if 60 <= len(text) <= 1500 and letters > 0.9 * len(text) and ">>>" not in text:
            found[text] = None


def fact_documents(sentences: list[Sentence], rng: random.Random) -> list[str]:
    """Sentences in documents of 1 to 16: half of one topic, half of mixed topics."""
    shuffled = rng.sample(sentences, len(sentences))
    half = len(shuffled) // 2
    by_topic = sorted(shuffled[:half], key=lambda s: s.topic)
    documents = []
    for part in (by_topic, shuffled[half:]):
        start = 0
        while start < len(part):
            length = rng.choice((1, 1, 1, 2, 3, 4, 6, 8, 12, 16))
            documents.append(" ".join(s.text for s in part[start : start + length]))
            start += length
    return documents


def heldout_documents(corpus: Corpus) -> list[str]:
    """The held-out documents: sentences and docstrings, at about half the characters each."""
    rng = random.Random(0)
    facts = fact_documents(corpus.heldout_sentences, rng)
    size = sum(map(len, facts))
    prose: list[str] = []
    for text in rng.sample(corpus.heldout_docstrings, len(corpus.heldout_docstrings)):
        if sum(map(len, prose)) < size:
            prose.append(text)
    return rng.sample(facts + prose, len(facts) + len(prose))


def epochs(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Rows]:
    """Endless passes over the facts, newly arranged each time, with docstrings mixed in."""
    rng = random.Random(seed)
    prose: list[str] = []
    while True:
        facts = fact_documents(corpus.sentences, rng)
        size = sum(map(len, facts)) * DOCSTRING_SHARE / (1 - DOCSTRING_SHARE)
        documents = facts
        while size > 0:
            prose = prose or rng.sample(corpus.docstrings, len(corpus.docstrings))
            documents.append(prose.pop())
            size -= len(documents[-1])
        rng.shuffle(documents)
        yield pack(documents, tokenizer)


def pack(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> Rows:
    """First fit into rows of ROW tokens; every document starts with BOS and may be cut at ROW."""
    ids: list[list[int]] = tokenizer(documents)["input_ids"]
    finished: list[list[list[int]]] = []
    open_rows: list[list[list[int]]] = []
    for document in (whole[:ROW] for whole in ids):
        fits = (r for r in open_rows if sum(map(len, r)) + len(document) <= ROW)
        row = next(fits, None)
        if row is None:
            row = []
            open_rows.append(row)
        row.append(document)
        if len(open_rows) > 32:
            finished.append(open_rows.pop(0))
    finished += open_rows
    tokens = np.zeros((len(finished), ROW), dtype=np.int64)
    owner = np.full((len(finished), ROW), -1, dtype=np.int64)
    for r, row in enumerate(finished):
        flat = [token for document in row for token in document]
        tokens[r, : len(flat)] = flat
        owner[r, : len(flat)] = [d for d, document in enumerate(row) for _ in document]
    return Rows(tokens, owner)
