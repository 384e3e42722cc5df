"""How many features are active, how strongly, how unequally, and how much of x they explain."""

import torch
from jaxtyping import Float
from torch import Tensor

from streamer.tables.metrics.activations import LayerActivations
from streamer.tables.metrics.columns import COUNT, LayerValues, per_passage
from streamer.tables.sparse import Group
from streamer.tables.table import Column


def _compute(layer: LayerActivations) -> LayerValues:
    return {
        COUNT: layer.l0.to(layer.dtype),
        "l2_norm": layer.norm,
        "energy": layer.energy,
        "reconstruction_error": (layer.residual - layer.reconstruction).norm(dim=-1),
        "gini": layer.reduce(_gini),
    }


def _gini(group: Group) -> Float[Tensor, " member"]:
    """Gini coefficient of the active magnitudes: 0 if all are equal, (n − 1)/n if one has all.

    G = Σᵢ (n + 1 − 2i) m₍ᵢ₎ / (n Σ m) with m₍₁₎ the largest of n (Gini 1912, in its sorted form).
    """
    magnitude, n = group.values, group.counts.to(group.values.dtype)
    rank = torch.arange(1, magnitude.shape[-1] + 1, device=n.device)
    weighted = ((n[:, None] + 1 - 2 * rank) * magnitude).sum(-1)
    return weighted / (n * magnitude.sum(-1))


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
