"""The reference's own forward pass and SAE: one text at a time, in float64, from the files."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Array = npt.NDArray[np.float64]
BOS = "<bos>"


def product(a: Array, b: Array) -> Array:
    """a @ b with torch's threads, which a test can do without, unlike numpy's."""
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


class Gemma2:
    """The architecture of Gemma 2 up to its residual stream, for one text at a time."""

    def __init__(self, directory: Path) -> None:
        self.cfg = json.loads((directory / "config.json").read_text())
        weights = load_file(directory / "model.safetensors")
        self.weights = {k.removeprefix("model."): v.astype(float) for k, v in weights.items()}
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return [self.tokenizer.token_to_id(BOS), *ids]

    def residuals(self, tokens: Sequence[int]) -> Array:
        """[layer, d_model]: the residual stream behind each layer, at the last token."""
        x = self.weights["embed_tokens.weight"][list(tokens)] * math.sqrt(self.cfg["hidden_size"])
        last = []
        for layer in range(self.cfg["num_hidden_layers"]):
            mixed = self._attention(layer, self._norm(layer, "input", x))
            x = x + self._norm(layer, "post_attention", mixed)
            mapped = self._mlp(layer, self._norm(layer, "pre_feedforward", x))
            x = x + self._norm(layer, "post_feedforward", mapped)
            last.append(x[-1])
        return np.stack(last)

    def _norm(self, layer: int, name: str, x: Array) -> Array:
        weight = self.weights[f"layers.{layer}.{name}_layernorm.weight"]
        mean_square = (x**2).mean(-1, keepdims=True)
        return x / np.sqrt(mean_square + self.cfg["rms_norm_eps"]) * (1 + weight)

    def _linear(self, layer: int, name: str, x: Array) -> Array:
        return product(x, self.weights[f"layers.{layer}.{name}_proj.weight"].T)

    def _mlp(self, layer: int, x: Array) -> Array:
        gate = self._linear(layer, "mlp.gate", x)
        gelu = gate / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        return self._linear(layer, "mlp.down", gelu * self._linear(layer, "mlp.up", x))

    def _attention(self, layer: int, x: Array) -> Array:
        cfg, n = self.cfg, len(x)
        q, k, v = (
            self._linear(layer, f"self_attn.{name}", x).reshape(n, -1, cfg["head_dim"])
            for name in "qkv"
        )
        group = cfg["num_attention_heads"] // cfg["num_key_value_heads"]
        q, k, v = self._rotate(q), self._rotate(k).repeat(group, 1), v.repeat(group, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(cfg["query_pre_attn_scalar"])
        cap = cfg["attn_logit_softcapping"]
        scores = np.tanh(scores / cap) * cap
        behind = np.arange(n)[:, None] - np.arange(n)
        sliding = cfg["layer_types"][layer] == "sliding_attention"
        seen = (behind >= 0) & (behind < (cfg["sliding_window"] if sliding else n))
        weights = np.where(seen, np.exp(scores - scores.max(-1, keepdims=True)), 0)
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1)
        return self._linear(layer, "self_attn.o", mixed)

    def _rotate(self, x: Array) -> Array:
        """Rotary positions. The model defines the angles and their sines in float32, as torch's."""
        half = torch.arange(0, x.shape[-1], 2, dtype=torch.float32) / x.shape[-1]
        frequency = 1 / self.cfg["rope_parameters"]["rope_theta"] ** half
        angle = torch.arange(len(x), dtype=torch.float32)[:, None, None] * frequency
        cos, sin = angle.cos().double().numpy(), angle.sin().double().numpy()
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


class Encoded(NamedTuple):
    """An SAE's features of one residual."""

    f: Array
    unit: float = 1.0
    """‖x‖·‖w‖ of the largest encoder row: what rounding of the features is relative to."""
    margin: float = math.inf
    """How near the nearest feature is to its threshold, relative to its own ‖x‖·‖w‖."""


class JumpRelu:
    """A JumpReLU SAE as SAELens stores it."""

    def __init__(self, directory: Path) -> None:
        cfg = json.loads((directory / "cfg.json").read_text())
        assert (
            cfg["architecture"],
            cfg["normalize_activations"],
            cfg["reshape_activations"],
            cfg["apply_b_dec_to_input"],
        ) == ("jumprelu", "none", "none", True)
        weights = load_file(directory / "sae_weights.safetensors")
        self.W_enc, self.b_enc, self.W_dec, self.b_dec, self.threshold = (
            weights[name].astype(float)
            for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        )
        self.reach = np.linalg.norm(self.W_enc, axis=0)

    def encode(self, x: Array) -> Encoded:
        z = (x - self.b_dec) @ self.W_enc + self.b_enc
        gate = np.maximum(self.threshold, 0)
        units = np.linalg.norm(x) * self.reach
        margin = float((np.abs(z - gate) / units).min())
        return Encoded(np.where(z > gate, z, 0), float(units.max()), margin)

    def decode(self, f: Array) -> Array:
        return f @ self.W_dec + self.b_dec
