"""The share of a batch's device time that is analysis, at the size of Gemma-2-2B.

    python -m bench.analysis [--records 54] [--positions 512] [--repeats 3] [--device cpu]

d_model 2304, three layers with SAEs of 16,384 features, of which about 90 are active. A decoder
layer is timed and counted as often as it runs up to layer 20; the SAE's encoder and the metrics are
run as in a batch, on random residuals whose pre-activations are as active.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Gemma2Config, Gemma2Model

from bench.model import ACTIVE, GPU_SHAPE
from bench.report import report
from bench.timing import in_turns, medians, seconds
from streamer.records import PASSAGES
from streamer.tables.metrics import FAMILIES, Activations, Layout, columns_of, compute
from streamer.tables.metrics.activations import LayerActivations
from streamer.tables.metrics.stability import TOP
from streamer.tables.sparse import SparseFeatures, Strongest

LAYERS = GPU_SHAPE.layers


@dataclass(frozen=True, slots=True)
class Sae:
    """A JumpReLU encoder and its decoder, as far as speed is concerned."""

    W_enc: Float[Tensor, "d_model d_sae"]
    W_dec: Float[Tensor, "d_sae d_model"]
    threshold: float

    def encode(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_sae"]:
        """As `LayerSae` does it."""
        features = x @ self.W_enc
        return features.mul_(features > self.threshold)


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=54, help="of a batch")
    parser.add_argument("--positions", type=int, default=512, help="of a batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    layer = _one_layer(options.device)
    tokens = torch.randint(64, (options.positions // 128, 128), device=options.device)
    saes = [_sae(seed, options.device) for seed in LAYERS]
    x = torch.randn(options.records, 3, GPU_SHAPE.d_model, device=options.device)

    def forward() -> float:
        return (max(LAYERS) + 1) * seconds(lambda: layer(tokens, use_cache=False), options.device)

    def encode() -> float:
        rows = torch.cat([x.flatten(0, 1)] * 2)  # the first layer also encodes with noise
        first = seconds(lambda: saes[0].encode(rows), options.device)
        others = (lambda sae=sae: sae.encode(x.flatten(0, 1)) for sae in saes[1:])
        return first + sum(seconds(other, options.device) for other in others)

    features = [sae.encode(x.flatten(0, 1)) for sae in saes]

    def analyse() -> float:
        return seconds(lambda: _measure(x, features, saes), options.device)

    with torch.inference_mode():
        ways = {"forward": forward, "encode": encode, "analysis": analyse}
        for way in ways.values():
            way()
        found = medians(in_turns(ways, options.repeats))
    whole = sum(found.values())
    rows = [
        {"part": part, "ms_a_record": 1e3 * s / options.records, "share": s / whole}
        for part, s in found.items()
    ]
    active = float(sum((f > 0).sum(-1).float().mean() for f in features)) / len(features)
    report("analysis", rows, d_model=GPU_SHAPE.d_model, layers=LAYERS, l0=active, **vars(options))


def _one_layer(device: str) -> Any:
    shape = GPU_SHAPE
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=shape.d_model,
        num_hidden_layers=1,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.d_head,
        query_pre_attn_scalar=shape.d_head,
        intermediate_size=shape.d_mlp,
    )
    torch.manual_seed(0)
    return Gemma2Model(config).eval().to(device)


def _sae(seed: int, device: str) -> Sae:
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(GPU_SHAPE.d_sae, GPU_SHAPE.d_model, generator=generator)
    W_dec = (W_dec / W_dec.norm(dim=-1, keepdim=True)).to(device)
    share = torch.tensor(1 - ACTIVE / GPU_SHAPE.d_sae, dtype=torch.float64)
    threshold = float(torch.special.ndtri(share))  # x is normal, and so is its product
    return Sae(W_dec.mT.contiguous(), W_dec, threshold)


def _measure(
    x: Float[Tensor, "record passage d_model"],
    features: list[Float[Tensor, "passage d_sae"]],
    saes: list[Sae],
) -> Float[Tensor, "record column"]:
    """The table of a batch, with all that its size depends on."""
    passages = PASSAGES["contrast"]
    counts = [(f > 0).sum(-1).tolist() for f in features]
    active = SparseFeatures.of_layers(features, counts, torch.float64, [False] * len(features))
    layers = tuple(
        LayerActivations(
            layer=layer,
            residual=x,
            reconstruction=None,
            features=f,
            W_dec=sae.W_dec,
            b_dec=torch.zeros(sae.W_dec.shape[1], device=x.device),
        )
        for layer, f, sae in zip(LAYERS, active, saes, strict=True)
    )
    columns = columns_of(FAMILIES, Layout(LAYERS, passages, (GPU_SHAPE.d_sae,) * len(LAYERS)))
    noisy = Strongest.of(features[0], TOP)
    return compute(FAMILIES, columns, Activations(passages, layers, noisy))


if __name__ == "__main__":
    main()
