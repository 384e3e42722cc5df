"""Makes everything in `src/streamer/embedded` but the records: `python -m training.build`."""

import platform
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from streamer.embedded import MODEL, RECORDS, SAES
from training.activations import packed_residuals
from training.card import write_card
from training.corpus import ROW, Corpus, Rows, epochs, heldout_documents, load_corpus
from training.evaluate import measure
from training.model import Recipe, load_model, save_model, train_model
from training.saes import SaeRecipe, train_saes
from training.tokenizer import train_tokenizer

HELDOUT = Path(__file__).parents[1] / "tests" / "data" / "embedded_heldout.txt"
SAE_EPOCHS = 4
"""Newly arranged passes over the text whose residuals the SAEs train on."""


def main() -> None:
    """Tokenizer, model, SAEs, held-out text, card; each is seeded, none needs the network."""
    started = time.monotonic()
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    transformers_logging.disable_progress_bar()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    recipe, sae_recipe = Recipe(), SaeRecipe()
    corpus = load_corpus()
    say(f"text: {len(corpus.sentences):,} sentences, {len(corpus.docstrings):,} paragraphs")
    build_model(corpus, recipe, say)
    build_saes(corpus, sae_recipe, say)
    HELDOUT.parent.mkdir(parents=True, exist_ok=True)
    HELDOUT.write_text("\n".join(heldout_documents(corpus)) + "\n", "utf-8")
    numbers = measure(MODEL, SAES, HELDOUT.read_text("utf-8").splitlines())
    model = load_model(MODEL)
    facts = {
        "parameters": model.num_parameters(),
        "vocabulary": model.config.vocab_size,
        "model_mb": _megabytes(MODEL),
        "saes_mb": _megabytes(Path(SAES).parent),
        "records_mb": _megabytes(RECORDS),
        "model_tokens": recipe.steps * recipe.rows * ROW,
        "sae_samples": sae_recipe.samples,
        "minutes": (time.monotonic() - started) / 60,
        "versions": _versions(),
    }
    write_card(MODEL.parent / "MODEL_CARD.md", numbers, facts)
    say(f"done: {numbers}")


def build_model(corpus: Corpus, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Trains tokenizer and model on the corpus and writes them."""
    tokenizer = train_tokenizer([s.text for s in corpus.sentences] + corpus.docstrings)
    model = train_model(corpus, tokenizer, recipe, say)
    shutil.rmtree(MODEL, ignore_errors=True)
    save_model(model, tokenizer, MODEL)


def build_saes(corpus: Corpus, recipe: SaeRecipe, say: Callable[[str], None]) -> None:
    """Trains the SAEs on residuals of the model as it was written, and writes them."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL, local_files_only=True)
    passes = list(islice(epochs(corpus, tokenizer, recipe.seed + 1), SAE_EPOCHS))
    rows = Rows(
        np.concatenate([p.tokens for p in passes]), np.concatenate([p.document for p in passes])
    )
    residuals = packed_residuals(load_model(MODEL), rows, tokenizer.bos_token_id)
    say(f"residuals: {len(residuals[1]):,} tokens")
    train_saes(residuals, recipe, SAES, say)


def _versions() -> str:
    packages = ("torch", "transformers", "tokenizers", "sae-lens")
    names = [f"{package} {version(package)}" for package in packages]
    return ", ".join([f"Python {platform.python_version()}", *names])


def _megabytes(directory: Path) -> float:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) / 1e6


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
