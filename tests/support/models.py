"""Small random models of several architectures, and SAEs for them, made on the spot."""

from pathlib import Path
from typing import Any

import torch
from sae_lens import (
    AbsTopKSAE,
    AbsTopKSAEConfig,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from streamer import embedded
from streamer.computing.model.language_model import LanguageModel, load_language_model
from streamer.config import RunConfig

D_MODEL, N_LAYERS, D_SAE = 32, 3, 48
SAES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "gated": (GatedSAE, GatedSAEConfig, {}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": 8}),
    "abstopk": (AbsTopKSAE, AbsTopKSAEConfig, {"k": 8}),
}


def make_model(folder: Path, architecture: str, tokenizer: Any = None, **changes: Any) -> Path:
    """A random model in `folder`/`architecture`; the embedded tokenizer unless one is given."""
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(str(embedded.MODEL))
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": D_MODEL,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
    }
    gpt2 = {
        "vocab_size": len(tokenizer),
        "n_embd": D_MODEL,
        "n_layer": N_LAYERS,
        "n_head": 4,
        "n_positions": 256,
    }
    neo = {
        "vocab_size": len(tokenizer),
        "hidden_size": D_MODEL,
        "num_layers": N_LAYERS,
        "num_heads": 4,
        "attention_types": [[["local"], N_LAYERS]],
        "window_size": 100,
        "max_position_embeddings": 1024,
    }
    config = {
        "gptneo": lambda: GPTNeoConfig(**neo | changes),
        "gpt2": lambda: GPT2Config(**gpt2 | changes),
        "gemma3": lambda: Gemma3TextConfig(**sizes | {"sliding_window": 16} | changes),
        "gemma2": lambda: Gemma2Config(**sizes | {"sliding_window": 16} | changes),
        "llama": lambda: LlamaConfig(**sizes | changes),
        "mistral": lambda: MistralConfig(**sizes | {"sliding_window": 16} | changes),
        "qwen2": lambda: Qwen2Config(**sizes | changes),
    }[architecture]()
    torch.manual_seed(0)
    path = folder / architecture
    AutoModelForCausalLM.from_config(config).save_pretrained(str(path))
    tokenizer.save_pretrained(str(path))
    return path


def save_model(path: Path, config: Any) -> Path:
    """A random model of that configuration at `path`, with the embedded tokenizer."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(str(path))
    AutoTokenizer.from_pretrained(str(embedded.MODEL)).save_pretrained(str(path))
    return path


def load_model(path: Path, **settings: Any) -> LanguageModel:
    """The model at `path` on the CPU, without SAEs, read at all layers unless told otherwise."""
    settings = {"layers": tuple(range(N_LAYERS)), **settings}
    config = RunConfig(model=str(path), sae="{layer}", device="cpu", **settings)
    return load_language_model(str(path), config, torch.device("cpu"))


def make_sae(
    path: Path, layer: int, architecture: str = "standard", d_model: int = D_MODEL, **metadata: Any
) -> Path:
    """A random SAE for `blocks.{layer}.hook_resid_post` in `path`; `metadata` overrides."""
    sae_class, config_class, settings = SAES[architecture]
    said = {"hook_name": f"blocks.{layer}.hook_resid_post", "prepend_bos": True} | metadata
    torch.manual_seed(layer)
    sae = sae_class(
        config_class(d_in=d_model, d_sae=D_SAE, metadata=SAEMetadata(**said), **settings)
    )
    sae.save_model(str(path))
    return path


def make_saes(folder: Path, layers: tuple[int, ...], **settings: Any) -> str:
    """SAEs for `layers`, as a template for `sae`."""
    for layer in layers:
        make_sae(folder / f"sae_{layer}", layer, **settings)
    return str(folder / "sae_{layer}")
