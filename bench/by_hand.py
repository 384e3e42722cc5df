"""The job done by hand: plain scripts on TransformerLens and SAELens, in three ways.

Each runs the whole model, logits too, and keeps every activation, as `run_with_cache` does when
nothing else is said; each gives rows with streamer's column names. Padding is on the right and
masked, and the last real token is read.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformer_lens.model_bridge import TransformerBridge

from bench.hand_metrics import NOISE_STD, cloud_of, drift_row, layer_row
from bench.model import BenchModel
from bench.options import Row, passages

BATCH = 8


@dataclass
class Loader:
    """Loads the model and SAEs, and counts how often and how long that took."""

    model: BenchModel
    times: list[float] = field(default_factory=list)
    """Seconds of each load."""

    def load(self, layers: Sequence[int]) -> tuple[Any, list[Any]]:
        """The model and the SAEs of `layers`, warm: one token has run."""
        begin = time.perf_counter()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        bridge = TransformerBridge.boot_transformers(str(self.model.path), device=device)
        places = [self.model.sae.replace("{layer}", str(layer)) for layer in layers]
        saes = [SAE.load_from_disk(place, device=device) for place in places]
        bridge(torch.ones(1, 1, dtype=torch.int64, device=device))
        self.times.append(time.perf_counter() - begin)
        return bridge, saes


Way: TypeAlias = Callable[[Loader, Sequence[Row]], list[Row]]


@torch.inference_mode()
def separate(loader: Loader, records: Sequence[Row]) -> list[Row]:
    """A script a layer and one for the drift metrics, each loading the model; a text at a time."""
    rows: list[Row] = [{} for _ in records]
    layers = loader.model.layers
    for layer in layers:
        model, (sae,) = loader.load([layer])
        for row, record in zip(rows, records, strict=True):
            for passage, text in passages(record).items():
                (x,) = _residuals(model, text, [layer])
                row.update(_layer_row(layer, passage, x, sae)[0])
    model, saes = loader.load(layers)
    for row, record in zip(rows, records, strict=True):
        clouds, features, noisy = {}, {}, {}
        for passage, text in passages(record).items():
            x = _residuals(model, text, layers)
            f = tuple(sae.encode(one) for sae, one in zip(saes, x, strict=True))
            features[passage], clouds[passage] = f, cloud_of(f[0], saes[0].W_dec)
            noisy[passage] = _noisy(x[0], saes[0])
        row.update(drift_row(clouds, features, noisy))
    return rows


@torch.inference_mode()
def sequential(loader: Loader, records: Sequence[Row]) -> list[Row]:
    """One script, the model loaded once; a text at a time, all layers from one pass."""
    layers = loader.model.layers
    model, saes = loader.load(layers)
    rows = []
    for record in records:
        row: Row = {}
        clouds, features, noisy = {}, {}, {}
        for passage, text in passages(record).items():
            x = _residuals(model, text, layers)
            found = [
                _layer_row(layer, passage, one, sae)
                for layer, one, sae in zip(layers, x, saes, strict=True)
            ]
            for columns, _, _ in found:
                row |= columns
            clouds[passage] = found[0][2]
            features[passage] = tuple(f for _, f, _ in found)
            noisy[passage] = _noisy(x[0], saes[0])
        rows.append(row | drift_row(clouds, features, noisy))
    return rows


@torch.inference_mode()
def batched(loader: Loader, records: Sequence[Row]) -> list[Row]:
    """One script, eight texts at a time, a batch a passage; a pass for each layer."""
    layers = loader.model.layers
    model, saes = loader.load(layers)
    rows = []
    for begin in range(0, len(records), BATCH):
        texts = [passages(record) for record in records[begin : begin + BATCH]]
        found: list[Row] = [{} for _ in texts]
        clouds: list[dict[str, Any]] = [{} for _ in texts]
        features: list[dict[str, Any]] = [{} for _ in texts]
        noisy: list[dict[str, Any]] = [{} for _ in texts]
        for passage in texts[0]:
            for layer, sae in zip(layers, saes, strict=True):
                x = _batch_residuals(model, [text[passage] for text in texts], layer)
                for i in range(len(texts)):
                    columns, f, cloud = _layer_row(layer, passage, x[i], sae)
                    found[i] |= columns
                    features[i][passage] = (*features[i].get(passage, ()), f)
                    if layer == layers[0]:
                        clouds[i][passage], noisy[i][passage] = cloud, _noisy(x[i], sae)
        for row, *of_record in zip(found, clouds, features, noisy, strict=True):
            rows.append(row | drift_row(*of_record))
    return rows


WAYS: dict[str, Way] = {"separate": separate, "sequential": sequential, "batched script": batched}


def _residuals(model: Any, text: str, layers: Sequence[int]) -> list[Float[Tensor, " d_model"]]:
    """Behind each of `layers`, at the text's last token."""
    _, cache = model.run_with_cache(model.to_tokens(text, prepend_bos=True))
    return [cache[f"blocks.{layer}.hook_resid_post"][0, -1] for layer in layers]


def _batch_residuals(model: Any, texts: Sequence[str], layer: int) -> Float[Tensor, "text d_model"]:
    """Behind `layer`, at each text's last token."""
    rows = [model.to_tokens(text, prepend_bos=True)[0] for text in texts]
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    tokens = pad_sequence(rows, batch_first=True)
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    mask = (positions < lengths[:, None]).to(torch.int64)
    _, cache = model.run_with_cache(tokens, attention_mask=mask)
    x = cache[f"blocks.{layer}.hook_resid_post"]
    return x[torch.arange(len(rows), device=x.device), lengths - 1]


def _layer_row(
    layer: int, passage: str, x: Float[Tensor, " d_model"], sae: Any
) -> tuple[Row, Float[Tensor, " d_sae"], Any]:
    """The metrics of a passage at a layer, its features, and their cloud."""
    f = sae.encode(x)
    cloud = cloud_of(f, sae.W_dec)
    return layer_row(f"l{layer}_{passage}", x, f, sae.decode(f), cloud), f, cloud


def _noisy(x: Float[Tensor, " d_model"], sae: Any) -> Float[Tensor, " d_sae"]:
    """Features of `x` with fresh noise."""
    features: Tensor = sae.encode(x + NOISE_STD * torch.randn_like(x))
    return features
