"""The worker is loaded with the model's own BOS, and says where its vocabulary does not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.errors import UsageError
from support.models import make_model, make_saes
from support.runs import run_with

TEXTS = ["The moon is far away", "the old house at the river", "In 1969 people walked"]
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tokenizer(special: tuple[str, ...] = (), **named: str) -> PreTrainedTokenizerFast:
    """Of bytes, merged as in `TEXTS`; `special` come first, and `named` says what they are for."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[*special], show_progress=False, initial_alphabet=alphabet
    )
    raw.train_from_iterator(TEXTS * 8, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, **named)


def loaded(tmp_path: Path, model: Path, wish: bool | None, **settings: Any) -> Worker:
    """With an SAE whose metadata have `wish` for prepend_bos."""
    template = make_saes(tmp_path, (1,), prepend_bos=wish)
    return load_worker(RunConfig(model=str(model), sae=template, layers=(1,), **settings), "text")


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Path:
    """A model whose EOS ends a turn of a chat, and which has no BOS."""
    own = tokenizer(CHAT, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return make_model(tmp_path_factory.mktemp("chat"), "qwen2", own, eos_token_id=2)


def test_without_bos_nothing_is_put_in_its_place(tmp_path, chat):
    worker = loaded(tmp_path, chat, None)
    assert worker.bos_id is None
    assert "passages begin without BOS: its tokenizer names none" in " ".join(worker.model.notes)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    run, _ = run_with(worker, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN")
    own = Tokenizer.from_file(str(chat / "tokenizer.json"))
    counts = [len(own.encode(text).ids) for text in TEXTS]
    assert run.table("metrics")["text_tokens"].to_pylist() == counts
    manifest = json.loads((tmp_path / "RUN" / "manifest.json").read_text())
    assert (manifest["model"]["bos"], manifest["model"]["bos_token"]) == (None, None)
    assert manifest["notes"] == worker.model.notes
    assert manifest["model"]["tokenizer"] == ["tokenizer.json"]


def test_bos_that_is_asked_for_and_missing_is_refused(tmp_path, chat):
    with pytest.raises(
        UsageError, match=r"names none\. Give .*takes '<.im_end.>'.* or set prepend_bos = false"
    ):
        loaded(tmp_path, chat, True)
    with pytest.raises(UsageError, match=r"has no BOS: .*prepend_bos = false"):
        loaded(tmp_path, chat, None, prepend_bos=True)
    without = loaded(tmp_path, chat, True, prepend_bos=False)
    assert without.bos_id is None
    assert not [note for note in without.model.notes if note.startswith("passages begin")]


def test_bos_that_the_model_does_not_embed_is_none(tmp_path):
    own = tokenizer()
    own.add_special_tokens({"bos_token": AddedToken("<s>", special=True)})
    model = make_model(tmp_path, "llama", own, vocab_size=300)
    assert loaded(tmp_path, model, None).bos_id is None
    with pytest.raises(UsageError, match=r"no BOS: '<s>' \(300\) is beyond the 300 embedded"):
        loaded(tmp_path, model, True)


def test_bos_is_eos_only_where_the_model_has_it_so(tmp_path):
    both = dict.fromkeys(("bos_token", "eos_token"), "<|endoftext|>")
    model = make_model(tmp_path, "gpt2", tokenizer(("<|endoftext|>",), **both))
    worker = loaded(tmp_path, model, None)
    assert worker.bos_id == 0
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": TEXTS[0]}))
    run_with(worker, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN")
    manifest = json.loads((tmp_path / "RUN" / "manifest.json").read_text())
    assert (manifest["model"]["bos"], manifest["model"]["bos_token"]) == (0, "<|endoftext|>")
    assert manifest["model"]["vocabulary"] == 300


@pytest.mark.parametrize(
    ("embedded", "said"),
    [
        (299, "has 300 tokens and the model embeds 299: records with one of the others are reject"),
        (300, ""),
        (320, ""),
        (1000, "has 300 tokens and the model embeds 1,000: check that it is the model's"),
    ],
)
def test_a_vocabulary_that_does_not_fit_the_embedding_is_said(tmp_path, embedded, said):
    model = make_model(tmp_path, "llama", tokenizer(), vocab_size=embedded)
    notes = loaded(tmp_path, model, False).model.notes
    about_it = " ".join(note for note in notes if note.startswith("the tokenizer has"))
    assert said in about_it
    assert bool(said) == bool(about_it)


def test_a_run_whose_texts_would_all_be_the_same_does_not_begin(tmp_path):
    raw = Tokenizer(models.WordLevel({"<unk>": 0, "sky": 1}, unk_token="<unk>"))
    model = make_model(tmp_path, "llama", PreTrainedTokenizerFast(tokenizer_object=raw))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    worker = loaded(tmp_path, model, None)
    with pytest.raises(UsageError, match="all tokens of the first 3 records are '<unk>'"):
        run_with(worker, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN")
    assert not (tmp_path / "RUN").exists()


def test_the_token_that_stands_for_bos_may_be_named(tmp_path, chat):
    worker = loaded(tmp_path, chat, True, bos_token="<|im_end|>")
    assert worker.bos_id == worker.model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    with pytest.raises(UsageError, match=r"--bos-token 'none such' is no token of the model"):
        loaded(tmp_path, chat, True, bos_token="none such")
