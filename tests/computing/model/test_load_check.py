"""What is tried of a model when it is loaded, before any number is believed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, Qwen3MoeConfig

from streamer import embedded
from streamer.computing.model.native import NativeForward, NoCache
from streamer.planning.packing import Packing
from support.models import load_model, make_model

STEM = tuple(range(9, 69))
BRANCHES = [STEM, (*STEM, 70, 71, 72), (*STEM, 80)]


@pytest.mark.parametrize("architecture", ["mistral", "gemma2", "gemma3"])
def test_a_window_that_a_trie_would_ignore_is_found_though_no_short_text_shows_it(
    architecture, tmp_path, monkeypatch
):
    path = make_model(tmp_path, architecture, sliding_window=200)
    assert load_model(path).sharing == "trie"
    mask = NativeForward._mask

    def without_window(self: NativeForward, depths: Any, ends: Any) -> Any:
        kept, self._config.sliding_window = self._config.sliding_window, 10_000
        try:
            return mask(self, depths, ends)
        finally:
            self._config.sliding_window = kept

    monkeypatch.setattr(NativeForward, "_mask", without_window)
    model = load_model(path)
    assert model.sharing == "prefix"
    assert model.notes == [
        "no tries: some layers see another part of a row than the mask of a packed row says"
    ]


def test_windows_are_as_before_once_a_model_is_loaded(tmp_path):
    model = load_model(make_model(tmp_path, "mistral", sliding_window=200))
    assert model._run.module.config.sliding_window == 200


@pytest.mark.parametrize("effect", ["an error", "other numbers"])
def test_an_architecture_that_wants_a_real_cache_runs_without_any(effect, tmp_path, monkeypatch):
    path = make_model(tmp_path, "llama", pad_token_id=0)
    right = alone(path)
    spared = load_model(path)
    update = NoCache.update

    def wrong(self: NoCache, keys: torch.Tensor, values: torch.Tensor, *more: Any) -> Any:
        if effect == "an error":
            raise AttributeError("no conv_states")
        return update(self, 2 * keys, values, *more)

    monkeypatch.setattr(NoCache, "update", wrong)
    model = load_model(path)
    for one, asks in ((spared, False), (model, True)):
        assert one._run._asks == asks
        assert one._run.module.config.pad_token_id == (0 if asks else None)
    assert model.sharing == "trie"
    found = model.residuals(Packing("prefix", 1).pack_passages(BRANCHES)).double()
    assert float(((found - right).norm(dim=-1) / right.norm(dim=-1)).max()) < 1e-5


EXPERTS = {
    "mixtral": (MixtralConfig, {"num_local_experts": 4}),
    "qwen3": (Qwen3MoeConfig, {"num_experts": 4, "moe_intermediate_size": 32}),
}
APART = {"float64": 2e-6, "float32": 1e-5, "float16": 0.05}
"""Over the norm; in bfloat16 a token may go to another expert, which changes all of it."""


@pytest.mark.parametrize("kind", EXPERTS)
def test_a_mixture_of_experts_runs_in_every_format(kind, tmp_path):
    path = make_experts(tmp_path, kind)
    right = alone(path)
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        model = load_model(path, dtype=dtype)
        got = model.residuals(Packing("trie", 128).pack_passages(BRANCHES)).double()
        apart = float(((got - right).norm(dim=-1) / right.norm(dim=-1)).max())
        assert apart < APART.get(dtype, 2), dtype


def make_experts(folder: Path, kind: str) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(str(embedded.MODEL))
    config, settings = EXPERTS[kind]
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64,
        "num_experts_per_tok": 2, "head_dim": 8, "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(0)
    path = folder / kind
    AutoModelForCausalLM.from_config(config(**sizes | settings)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def alone(path: Path) -> torch.Tensor:
    """[layer, passage, d_model] of Hugging Face's model in float64, each passage alone."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    model.set_experts_implementation("eager")
    kept: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.register_forward_hook(
            lambda _, __, out: kept.append((out[0] if isinstance(out, tuple) else out)[0, -1])
        )
    found = []
    for ids in BRANCHES:
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]), use_cache=False)
        found.append(torch.stack(kept))
        kept.clear()
    return torch.stack(found, dim=1)
