"""The tokenizer of a model is the one in its files; where there is none, nothing is made up."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from streamer.computing.model.tokenizer import ModelTokenizer, read_tokenizer
from streamer.errors import UsageError

CORPUS = [
    "The moon is far away from the sea",
    "In 1969 people walked on the moon",
    "prices went up by 12.5% since 2019",
    "Nobody knows where the birds go in winter",
] * 8
TEXT = "In 1969  people walked, and  2019\n\nnaïve 漢字 🙂"
CONFIGS = ("llama", "gpt2", "qwen2", "gemma2", "mistral", "gpt_neox")


def bpe(*special: str, vocabulary: int = 330) -> Tokenizer:
    """Merges bytes as GPT-2 does, and splits numbers into digits, which GPT-2 does not."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(CORPUS, trainer)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    return made


def folder(path: Path, model_type: str, raw: Tokenizer | None = None, **config: Any) -> Path:
    """A model's directory without weights, with a tokenizer.json, and `config` beside it."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    if raw is not None:
        raw.save(str(path / "tokenizer.json"))
    if config:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def read(path: Path, *, trust_remote_code: bool = False) -> ModelTokenizer:
    return read_tokenizer(str(path), None, trust_remote_code=trust_remote_code)


def ids(found: ModelTokenizer, text: str = TEXT) -> list[int]:
    encoded: list[int] = found.fast(text, add_special_tokens=False)["input_ids"]
    return encoded


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_model_without_a_tokenizer_is_refused(tmp_path, model_type):
    """Hugging Face makes one of five words for some of them."""
    path = folder(tmp_path / "m", model_type, tokenizer_class="GPT2Tokenizer", bos_token="<s>")
    with pytest.raises(UsageError, match=r"has no tokenizer: there is no tokenizer\.json"):
        read(path)


@pytest.mark.parametrize("in_cache", [True, False])
def test_a_hub_model_whose_snapshot_has_no_tokenizer_is_refused(tmp_path, monkeypatch, in_cache):
    cached = tmp_path / "hub" / "models--org--name"
    snapshot = cached / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    folder(snapshot, "gpt2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = "org/name" if in_cache else str(snapshot)
    with pytest.raises(UsageError, match=r"has no tokenizer: there is no tokenizer\.json"):
        read_tokenizer(name, None, trust_remote_code=False)
    bpe().save(str(snapshot / "tokenizer.json"))
    assert ids(read_tokenizer(name, None, trust_remote_code=False)) == bpe().encode(TEXT).ids


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize("named", ["GPT2Tokenizer", "LlamaTokenizer", "Qwen2Tokenizer", "NoSuch"])
def test_whatever_class_is_named_the_ids_are_those_of_the_file(tmp_path, model_type, named):
    raw = bpe("<|endoftext|>")
    path = folder(tmp_path / "m", model_type, raw, tokenizer_class=named)
    found = read(path)
    assert ids(found) == raw.encode(TEXT).ids
    other = AutoTokenizer.from_pretrained(str(path))
    if other(TEXT, add_special_tokens=False)["input_ids"] != ids(found):
        (note,) = found.notes
        assert f"of tokenizer.json: AutoTokenizer ({type(other).__name__}) makes others" in note


def test_a_difference_is_said_with_a_text_that_shows_it(tmp_path):
    path = folder(tmp_path / "m", "gpt2", bpe(), tokenizer_class="GPT2Tokenizer")
    found = read(path)
    (note,) = found.notes
    assert "tokens are those of tokenizer.json: AutoTokenizer (GPT2Tokenizer) makes others" in note
    assert "1234567" in note
    assert not found.is_transformers
    shutil.rmtree(path)
    found = read(folder(path, "gpt2", bpe(), tokenizer_class="TokenizersBackend"))
    assert (found.notes, found.is_transformers) == ((), True)


def test_what_the_file_has_for_training_changes_no_ids(tmp_path):
    raw = bpe("<s>", "<pad>")
    expected = raw.encode(TEXT).ids
    raw.enable_truncation(5)
    raw.enable_padding(pad_id=1, pad_token="<pad>", length=20)
    known = [("<s>", 0), ("<pad>", 1)]
    raw.post_processor = processors.TemplateProcessing("<s> $A <pad>", None, known)
    assert ids(read(folder(tmp_path / "m", "llama", raw))) == expected
    raw.model.dropout = 0.9
    found = read(folder(tmp_path / "m", "llama", raw))
    assert ids(found) == expected
    assert "the dropout of tokenizer.json is off" in " ".join(found.notes)


def test_tokens_that_only_the_configuration_adds_are_said_and_not_taken(tmp_path):
    extra = {"content": "<extra>", "special": True}
    raw = bpe("<s>")
    path = folder(tmp_path / "m", "llama", raw, added_tokens_decoder={"330": extra})
    found = read(path)
    assert ids(found, "a <extra> b") == raw.encode("a <extra> b").ids
    assert "'one <extra> two<extra>'" in " ".join(found.notes)
    assert found.is_transformers


def test_bos_is_the_tokenizers_own(tmp_path):
    raw = bpe("<s>", "</s>")
    assert read(folder(tmp_path / "a", "llama", raw, bos_token="<s>")).fast.bos_token_id == 0
    named = {"content": "</s>", "special": True}
    assert read(folder(tmp_path / "b", "llama", raw, bos_token=named)).fast.bos_token_id == 1
    for number, config in enumerate(({"eos_token": "</s>"}, {"bos_token": None}, {})):
        path = folder(tmp_path / f"none-{number}", "qwen2", raw, **config)
        assert read(path).fast.bos_token_id is None
    path = folder(tmp_path / "c", "llama", raw, bos_token="<begin>")
    found = read(path)
    assert (found.fast.bos_token_id, len(found.fast)) == (None, 330)
    assert ids(found, "a <begin>") == raw.encode("a <begin>").ids


def test_gpt2_whose_files_name_no_bos_has_its_own(tmp_path):
    raw = bpe("<|endoftext|>")
    found = read(folder(tmp_path / "m", "gpt2", raw, model_max_length=1024))
    assert found.fast.bos_token == "<|endoftext|>"


def test_what_the_file_puts_in_front_of_every_text_is_bos(tmp_path):
    raw = bpe("<s>", "</s>")
    raw.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    found = read(folder(tmp_path / "a", "qwen2", raw))
    assert found.fast.bos_token_id == 0
    assert "BOS is '<s>'" in " ".join(found.notes)
    raw.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    assert read(folder(tmp_path / "b", "qwen2", raw)).fast.bos_token_id is None


def test_a_vocabulary_with_merges_is_read_and_said(tmp_path):
    raw = bpe("<|endoftext|>")
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    path = folder(tmp_path / "m", "gpt2")
    raw.model.save(str(path))
    found = read(path)
    assert ids(found) == raw.encode(TEXT).ids
    assert found.files == ("vocab.json", "merges.txt")
    (note,) = found.notes
    assert "no tokenizer.json: GPT2Tokenizer makes tokens from vocab.json and merges.txt" in note


@pytest.mark.parametrize("model_type", CONFIGS)
def test_half_a_vocabulary_is_refused(tmp_path, model_type):
    path = folder(tmp_path / "m", model_type)
    bpe().model.save(str(path))
    (path / "merges.txt").unlink()
    with pytest.raises(UsageError, match=r"of vocab.json alone none is made.*save_pretrained"):
        read(path)


@pytest.mark.parametrize("model_type", ["gemma2", "llama"])
def test_a_vocabulary_that_hugging_face_does_not_read_is_refused(tmp_path, model_type):
    """It makes one of five words for Gemma, whose tokenizers have other files."""
    path = folder(tmp_path / "m", model_type)
    bpe().model.save(str(path))
    with pytest.raises(UsageError, match=r"there is no tokenizer\.json, and"):
        read(path)


def sentencepiece(path: Path, *, blank_first: bool) -> SentencePieceProcessor:
    """The SentencePiece model that it trains and puts into `path`."""
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(path / "tokenizer"),
        vocab_size=350,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=blank_first,
        minloglevel=2,
    )
    return SentencePieceProcessor(model_file=str(path / "tokenizer.model"))


def test_a_sentencepiece_model_is_read_and_said_where_it_is_read_right(tmp_path):
    path = folder(tmp_path / "m", "llama")
    own = sentencepiece(path, blank_first=False)
    found = read(path)
    assert ids(found) == own.encode(TEXT)
    assert "makes tokens from tokenizer.model" in " ".join(found.notes)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_sentencepiece_model_is_refused_where_it_is_read_wrong(tmp_path, model_type):
    """Hugging Face leaves out the blank before the first word, or makes another tokenizer."""
    path = folder(tmp_path / "m", model_type)
    sentencepiece(path, blank_first=True)
    with pytest.raises(UsageError, match=r"of tokenizer\.model .*: of 'The sky.*save_pretrained"):
        read(path)


@pytest.mark.parametrize("name", ["tekken.json", "vocab.txt", "spiece.model"])
def test_a_tokenizer_that_cannot_be_checked_is_refused(tmp_path, name):
    path = folder(tmp_path / "m", "mistral")
    (path / name).write_text("{}")
    with pytest.raises(UsageError, match=f"no fast tokenizer.*of {name} alone.*save_pretrained"):
        read(path)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[1, 2]"])
def test_a_damaged_tokenizer_is_told(tmp_path, model_type, content):
    path = folder(tmp_path / "m", model_type, bpe())
    (path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"the tokenizer\.json of the model .* is damaged"):
        read(path)


def test_a_damaged_configuration_is_told(tmp_path):
    path = folder(tmp_path / "m", "llama", bpe())
    (path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UsageError, match=r"tokenizer_config\.json of the model .* is damaged"):
        read(path)


def test_code_of_the_models_own_is_not_needed_for_its_file(tmp_path):
    raw = bpe("<s>")
    its_own = {"AutoTokenizer": [None, "own.Own"]}
    path = folder(tmp_path / "m", "llama", raw, auto_map=its_own, bos_token="<s>")
    (path / "own.py").write_text("raise SystemExit('it was run')")
    found = read(path)
    assert ids(found) == raw.encode(TEXT).ids
    assert found.fast.bos_token_id == 0


@pytest.mark.parametrize("model_type", CONFIGS)
def test_nobody_is_asked_about_a_directory(tmp_path, monkeypatch, model_type):
    """Of large vocabularies, Hugging Face asks the hub whether they are Mistral's."""
    asked = []

    def ask(*address: Any) -> None:
        asked.append(address)
        raise OSError("no network")

    raw = Tokenizer(models.WordLevel({str(n): n for n in range(120_000)}, unk_token="0"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    path = folder(tmp_path / "m", model_type, raw, tokenizer_class="PreTrainedTokenizerFast")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", ask)
    monkeypatch.setattr(socket, "getaddrinfo", ask)
    assert ids(read(path), "5 119999") == [5, 119_999]
    assert asked == []
