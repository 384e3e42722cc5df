"""Models that are more than a decoder of text: their text part is run, or they are refused."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from streamer.errors import UsageError
from streamer.planning.packing import Packing
from support.models import load_model, make_model
from support.multimodal import KINDS, make_multimodal

HOOKED = (0, 2)
STEM = tuple(range(9, 49))
PASSAGES = [STEM, (*STEM, 70, 71, 72), (*STEM, 80), tuple(range(100, 112))]
"""Longer than the window, with a beginning in common."""


@pytest.fixture(scope="module", params=KINDS)
def multimodal(request, tmp_path_factory) -> tuple[Path, Any]:
    return make_multimodal(tmp_path_factory.mktemp("model"), request.param)


def whole_residuals(path: Path, whole: Any, passages: Any) -> torch.Tensor:
    """[layer, passage, d_model] of the whole model in float64, each passage alone."""
    model = whole.from_pretrained(path, dtype=torch.float64, attn_implementation="eager").eval()
    kept: dict[int, torch.Tensor] = {}
    for layer in HOOKED:
        model.model.language_model.layers[layer].register_forward_hook(
            lambda _, __, out, layer=layer: kept.update(
                {layer: (out[0] if isinstance(out, tuple) else out)[0, -1]}
            )
        )
    found = []
    for ids in passages:
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]), use_cache=False)
        found.append(torch.stack([kept[layer] for layer in HOOKED]))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("forward", ["auto", "bridge"])
def test_the_text_part_of_a_multimodal_model_gives_the_numbers_of_the_whole(multimodal, forward):
    path, whole = multimodal
    model = load_model(path, layers=HOOKED, forward=forward)
    assert model.sharing == ("trie" if forward == "auto" else "prefix")
    sharing = "trie" if forward == "auto" else "none"
    got = model.residuals(Packing(sharing, 128).pack_passages(PASSAGES)).double()
    right = whole_residuals(path, whole, PASSAGES)
    assert ((got - right).norm(dim=-1) < 5e-6 * right.norm(dim=-1)).all()


def test_of_a_multimodal_model_only_the_layers_that_are_read_are_kept(multimodal):
    model = load_model(multimodal[0], layers=HOOKED)
    names = [name for name, _ in model._run.module.named_parameters()]
    assert not [name for name in names if "vision" in name or "projector" in name]
    assert len(model._run.layers) == 3
    assert model.n_layers == 4


def test_nothing_is_installed_for_a_multimodal_model(multimodal, monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **_: asked.append(args))
    load_model(multimodal[0], layers=HOOKED)
    assert asked == []


def test_an_encoder_decoder_is_refused(tmp_path):
    path = make_model(tmp_path, "llama")
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    T5ForConditionalGeneration(T5Config(vocab_size=99, **sizes)).save_pretrained(path)
    with pytest.raises(UsageError, match=r"llama is an encoder-decoder \(t5\)"):
        load_model(path)


BOTH_WAYS = {
    "llama": ("llama", {"is_causal": False}),
    "gemma 3": ("gemma3", {"use_bidirectional_attention": True}),
}


@pytest.mark.parametrize("forward", ["auto", "bridge"])
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_a_model_that_attends_both_ways_is_refused(name, forward, tmp_path):
    architecture, setting = BOTH_WAYS[name]
    sizes = {"initializer_range": 0.3, "sliding_window": 64}
    path = make_model(tmp_path, architecture, **sizes | setting)
    with pytest.raises(UsageError, match="is not causal"):
        load_model(path, forward=forward)


def test_an_encoder_is_refused_by_what_it_does(tmp_path):
    path = make_model(tmp_path, "llama")
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = BertConfig(vocab_size=5000, intermediate_size=64, initializer_range=0.3, **sizes)
    (path / "model.safetensors").unlink()
    BertForMaskedLM(config).save_pretrained(path)
    with pytest.raises(UsageError, match="is not causal"):
        load_model(path, hook="blocks.{layer}.hook_out")


def test_a_causal_model_is_not(tmp_path):
    path = make_model(tmp_path, "gemma3", sliding_window=64, initializer_range=0.3)
    assert load_model(path).sharing == "trie"
    shutil.rmtree(path)
