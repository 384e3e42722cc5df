"""A model's files: known by what they are, and named where something is wrong with them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from streamer.computing.model import tokenizer
from streamer.computing.model.find import find_model
from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.planning.packing import Packing
from support.models import D_MODEL, load_model, make_model

NO_SAE = {"sae": "{layer}", "layers": (0,)}
PASSAGES = [tuple(range(9, 19)), tuple(range(30, 42))]


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


def residuals(path: Path, **settings) -> torch.Tensor:
    return load_model(path, **settings).residuals(Packing("none", 1).pack_passages(PASSAGES))


def test_a_folder_is_itself_though_a_hub_model_has_its_name(tmp_path, llama, monkeypatch):
    """TransformerLens takes gpt2-small for the hub's gpt2."""
    shutil.copytree(llama, tmp_path / "gpt2-small")
    monkeypatch.chdir(tmp_path)
    found = find_model(RunConfig(model="gpt2-small", **NO_SAE))
    model = load_model(Path(found))
    assert (model.d_model, type(model._run.module).__name__) == (D_MODEL, "LlamaModel")


def test_a_folder_is_known_by_every_name_it_has(tmp_path, llama, monkeypatch):
    kept = tmp_path / "hub/models--google--gemma-2-2b/snapshots/0123abcd"
    shutil.copytree(llama, kept)
    identity = load_model(kept).identity
    assert identity.is_called("gemma-2-2b")
    assert identity.is_called("google/gemma-2-2b")
    assert not identity.is_called("someone/gemma-2-2b")
    (tmp_path / "linked").symlink_to(llama)
    assert {"linked", "llama"} <= load_model(tmp_path / "linked").identity.aliases
    monkeypatch.chdir(llama)
    assert "llama" in load_model(Path(find_model(RunConfig(model=".", **NO_SAE)))).identity.aliases


@pytest.mark.parametrize("forward", ["native", "bridge"])
def test_a_tied_embedding_may_be_stored_as_the_outputs(forward, tmp_path):
    path = make_model(tmp_path, "llama", tie_word_embeddings=True)
    expected = residuals(path, forward=forward)
    weights = load_file(path / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    assert torch.equal(residuals(path, forward=forward), expected)


def test_an_embedding_that_is_not_tied_is_not_taken_from_the_output(tmp_path):
    path = make_model(tmp_path, "llama", tie_word_embeddings=False)
    weights = load_file(path / "model.safetensors")
    del weights["model.embed_tokens.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"its files lack 1 weights, among them embed_tokens"):
        load_model(path)


def test_a_file_that_is_cut_off_is_named(tmp_path, llama):
    path = tmp_path / "llama"
    shutil.copytree(llama, path)
    whole = (path / "model.safetensors").read_bytes()
    for kept in (0, 5, 100, len(whole) - 1):
        (path / "model.safetensors").write_bytes(whole[:kept])
        with pytest.raises(UsageError, match=rf"model.safetensors is .*not whole.* {kept:,}\."):
            load_model(path)


def test_a_file_that_the_index_names_and_is_not_there_is_named(tmp_path, llama):
    path = tmp_path / "llama"
    shutil.copytree(llama, path)
    names = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(UsageError, match=r"1 of its 2 weight files .* model-00002-of-00002"):
        load_model(path)


def test_a_model_that_transformer_lens_does_not_know_is_refused_in_a_sentence(tmp_path, llama):
    path = tmp_path / "llama"
    shutil.copytree(llama, path)
    config = json.loads((path / "config.json").read_text())
    config |= {"model_type": "ctrl", "architectures": ["CTRLLMHeadModel"]}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"has no adapter for CTRLLMHeadModel\. Choose"):
        load_model(path)


def test_a_folder_with_an_adapter_is_refused(tmp_path, llama):
    """Hugging Face applies it where peft is installed, and leaves it out where it is not."""
    shutil.copytree(llama, tmp_path / "tuned")
    (tmp_path / "tuned" / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"has an adapter .*merge_and_unload"):
        load_model(tmp_path / "tuned")


def test_half_a_pickle_is_said_to_be_one(tmp_path, llama):
    path = tmp_path / "half"
    shutil.copytree(llama, path)
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    whole = (path / "pytorch_model.bin").read_bytes()
    load_model(path, trust_remote_code=True)
    (path / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"pytorch_model.bin is damaged or not whole"):
        load_model(path, trust_remote_code=True)


def test_half_an_index_is_said_to_be_one(tmp_path, llama):
    shutil.copytree(llama, tmp_path / "half")
    (tmp_path / "half" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "mo')
    with pytest.raises(UsageError, match=r"index.json is damaged or not whole"):
        load_model(tmp_path / "half")


def test_a_weight_that_is_no_number_is_not_taken_for_attention_that_looks_ahead(tmp_path, llama):
    shutil.copytree(llama, tmp_path / "nan")
    weights = load_file(tmp_path / "nan" / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(weights, tmp_path / "nan" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"is not finite: its weights are damaged"):
        load_model(tmp_path / "nan")


def test_a_hub_that_keeps_a_model_back_is_told_in_a_sentence(tmp_path, llama, monkeypatch):
    def gated(*_, **__):
        raise OSError("You are trying to access a gated repo.\nAsk for access.")

    monkeypatch.setattr(tokenizer, "cached_file", gated)
    with pytest.raises(UsageError, match=r"cannot load the model .*gated repo\.$"):
        load_model(llama)
