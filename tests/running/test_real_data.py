"""Real records and a real vocabulary, where they lie beside the project."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from streamer.computing.load import load_worker
from streamer.config import RunConfig
from support.models import make_model, make_saes
from support.runs import run_with

LAYERS = (0, 1, 2)


def test_every_contrast_record_of_four_real_files_is_measured(shared_data, tmp_path):
    files = sorted((shared_data / "hb").glob("*.json"))
    records = [record for file in files for record in json.loads(file.read_text("utf-8"))]
    run, _ = run_with(
        None, paths=[str(shared_data / "hb")], out=tmp_path / "RUN", carry={"complexity": "int64"}
    )
    metrics = run.table("metrics")
    assert len(records) == 930
    for key in ("id", "domain", "complexity"):
        assert metrics[key].to_pylist() == [record[key] for record in records]
    assert run.table("rejected").num_rows == 0


def test_every_text_record_of_a_real_file_is_measured(shared_data, tmp_path):
    path = shared_data / "gsm8k" / "test.jsonl"
    run, _ = run_with(None, paths=[str(path)], out=tmp_path / "RUN", field={"text": "question"})
    metrics = run.table("metrics")
    assert metrics["row"].to_pylist() == list(range(1319))
    assert metrics["id"].to_pylist()[:2] == ["test:0", "test:1"]
    assert set(metrics["domain"].to_pylist()) == {"test"}


@pytest.fixture(scope="module")
def gpt2_tokenizer(shared_data):
    folder = shared_data / "gpt2-tokenizer"
    bpe = models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end
    )


def test_nothing_is_tied_to_the_embedded_model(shared_data, gpt2_tokenizer, tmp_path):
    path = make_model(tmp_path, "gemma2", gpt2_tokenizer)
    config = RunConfig(model=str(path), sae=make_saes(tmp_path, LAYERS), layers=LAYERS)
    worker = load_worker(config, "contrast")
    run, _ = run_with(worker, paths=[str(shared_data / "hb")], out=tmp_path / "RUN", limit=100)
    metrics = run.table("metrics")
    assert metrics.num_rows == 100
    first = gpt2_tokenizer("Frankenstein is the name of")["input_ids"]
    assert metrics["prompt_tokens"][0].as_py() == 1 + len(first)
