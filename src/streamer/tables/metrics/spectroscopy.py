"""How many features are active, how strongly, how unequally, and how much of x they explain."""

import torch

from streamer.tables.metrics.activations import LayerActivations
from streamer.tables.metrics.columns import COUNT, LayerValues, per_passage
from streamer.tables.table import Column


def _compute(layer: LayerActivations) -> LayerValues:
    return {
        COUNT: layer.l0.to(layer.dtype),
        "l2_norm": layer.where_active(layer.magnitude.norm(dim=-1)),
        "energy": layer.where_active(layer.energy),
        "reconstruction_error": (layer.residual - layer.reconstruction).norm(dim=-1),
        "gini": layer.where_active(_gini(layer)),
    }


def _gini(layer: LayerActivations) -> torch.Tensor:
    """Gini coefficient of the active magnitudes: 0 if all are equal, (n − 1)/n if one has all.

    G = Σᵢ (n + 1 − 2i) m₍ᵢ₎ / (n Σ m) with m₍₁₎ the largest of n (Gini 1912, in its sorted form).
    """
    n = layer.l0.to(layer.dtype)[..., None]
    rank = torch.arange(1, layer.magnitude.shape[-1] + 1, device=n.device)
    weighted = ((n + 1 - 2 * rank) * layer.magnitude).sum(-1)
    return weighted / (n[..., 0] * layer.energy)


SPECTROSCOPY = per_passage(
    "spectroscopy",
    [
        Column(COUNT, "int32", unit="features", discrete=True),
        Column("l2_norm", unit="activation"),
        Column("energy", unit="activation"),
        Column("reconstruction_error", unit="residual"),
        Column("gini", rounding="one"),
    ],
    _compute,
)
