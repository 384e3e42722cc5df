"""The model of the benchmarks: of real shape, with random weights, and SAEs that fit it.

    python -m bench.model [--tokenizer DIRECTORY] [--shape cpu|gpu]

It is made once and kept in the user's cache. Speed does not depend on what a model has learned, but
it does on how many features are active; so the SAEs' thresholds are set to have about 90 of them.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, PreTrainedModel

from bench.options import add_data_options, contrast_records, load_tokenizer, passages
from streamer import embedded
from streamer.concurrency.threads import in_own_thread

ACTIVE = 90
"""Features active at a passage's last token, on average: as in SAEs of this width that are used."""
CALIBRATED_ON = 64
"""Embedded records whose residuals set the thresholds."""
VERSION = 1
"""To be raised when this file makes other weights of the same settings."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Gemma-2 model, and of the SAEs behind some of its layers."""

    name: str
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    layers: tuple[int, ...]
    """With an SAE. Not the last: Hugging Face gives its residual only behind the final norm."""
    d_sae: int
    dtype: str
    """Of the model's weights on disk; the SAEs' are float32."""


CPU_SHAPE = Shape("gemma-2-small", 768, 26, 8, 4, 96, 3072, (5, 12, 20), 16_384, "float32")
GPU_SHAPE = Shape("gemma-2-2b", 2304, 26, 8, 4, 256, 9216, (5, 12, 20), 16_384, "bfloat16")
SHAPES = {"cpu": CPU_SHAPE, "gpu": GPU_SHAPE}


@dataclass(frozen=True, slots=True)
class BenchModel:
    """Where the model and its SAEs are."""

    path: Path
    """A Hugging Face directory."""
    sae: str
    """The template of SAELens directories."""
    layers: tuple[int, ...]
    settings: dict[str, Any]
    """Its shape, parameters, vocabulary, and the L0 of the passages it was calibrated on."""


def bench_model(tokenizer: Path | None, shape: Shape = CPU_SHAPE) -> BenchModel:
    """The model of this shape with the tokenizer in that directory, None for the embedded one.

    The first call makes it (a minute) under `$XDG_CACHE_HOME` or `~/.cache`.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamer-bench"
    vocabulary = load_tokenizer(tokenizer)
    known = [VERSION, ACTIVE, dataclasses.asdict(shape), vocabulary.backend_tokenizer.to_str()]
    digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:12]
    folder = cache / f"{shape.name}-{digest}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=cache))
        try:
            in_own_thread(lambda: _make(making, vocabulary, shape))
            making.rename(folder)  # a half-made one has another name, and is never used
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    return BenchModel(folder / "model", str(folder / "layer_{layer}"), shape.layers, settings)


def _make(folder: Path, tokenizer: Any, shape: Shape) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            _config(tokenizer, shape), dtype=getattr(torch, shape.dtype)
        )
    model.eval()
    model.save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))
    residuals = _residuals(model, tokenizer, shape.layers)
    l0 = {
        layer: _make_sae(folder / f"layer_{layer}", layer, x, shape)
        for layer, x in residuals.items()
    }
    settings = dataclasses.asdict(shape) | {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "vocabulary": len(tokenizer),
        "l0": l0,
    }
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")


def _config(tokenizer: Any, shape: Shape) -> Gemma2Config:
    """All that is not said here is as in Gemma 2, soft caps and sliding windows too."""
    return Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.d_model,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.d_head,
        query_pre_attn_scalar=shape.d_head,
        intermediate_size=shape.d_mlp,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.inference_mode()
def _residuals(
    model: PreTrainedModel, tokenizer: Any, layers: tuple[int, ...]
) -> dict[int, Float[Tensor, "passage d_model"]]:
    """Of each layer, the residual behind it at the last token of some embedded passages."""
    records = contrast_records(embedded.RECORDS)
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for record in records[:: max(1, len(records) // CALIBRATED_ON)]:
        for text in passages(record).values():
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            tokens = torch.tensor([[tokenizer.bos_token_id, *ids]], device=model.device)
            hidden = model.model(tokens, output_hidden_states=True, use_cache=False).hidden_states
            for layer in layers:  # the first of them is the embedding
                found[layer].append(hidden[layer + 1][0, -1].float())
    return {layer: torch.stack(x) for layer, x in found.items()}


def _make_sae(
    path: Path, layer: int, x: Float[Tensor, "passage d_model"], shape: Shape
) -> dict[str, float]:
    """An SAE of random directions, whose one threshold leaves `ACTIVE` features a passage of `x`.

    Returns mean, standard deviation, least and most of the L0 of `x`.
    """
    directions = torch.randn(
        shape.d_sae, shape.d_model, generator=torch.Generator().manual_seed(layer)
    )
    directions /= directions.norm(dim=-1, keepdim=True)
    projected = x.cpu() @ directions.T
    threshold = float(projected.flatten().topk(ACTIVE * len(x)).values[-1])
    metadata = SAEMetadata(hook_name=f"blocks.{layer}.hook_resid_post", prepend_bos=True)
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=shape.d_model, d_sae=shape.d_sae, metadata=metadata))
    with torch.no_grad():
        sae.W_dec.copy_(directions)
        sae.W_enc.copy_(directions.T)
        sae.threshold.fill_(threshold)
    sae.save_model(str(path))
    l0 = (projected > threshold).sum(-1).float()
    found = {"mean": l0.mean(), "deviation": l0.std(), "least": l0.min(), "most": l0.max()}
    return {name: round(float(value), 1) for name, value in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """Make it and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_options(parser)
    parser.add_argument("--shape", choices=SHAPES, default="cpu")
    options = parser.parse_args(arguments)
    made = bench_model(options.tokenizer, SHAPES[options.shape])
    print(json.dumps({"path": str(made.path), **made.settings}, indent=2))


if __name__ == "__main__":
    main()
