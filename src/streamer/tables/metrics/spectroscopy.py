"""How many features are active, how strongly, how unequally, and how much of x they explain."""

import torch
from jaxtyping import Float
from torch import Tensor

from streamer.tables.column import OF_ONE, Column
from streamer.tables.metrics.activations import LayerActivations
from streamer.tables.metrics.columns import COUNT, LayerValues, per_passage
from streamer.tables.sparse import Group


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
        Column(
            COUNT,
            "int32",
            unit="features",
            discrete=True,
            description="how many features are active",
            definition="number of active features (L0)",
        ),
        Column(
            "l2_norm",
            unit="activation",
            description="how strongly features are active, by their Euclidean norm",
            definition="Euclidean norm of the active magnitudes: √Σ fᵢ²",
        ),
        Column(
            "energy",
            unit="activation",
            description="how strongly features are active, by their sum",
            definition="sum of the active magnitudes (L1): Σ fᵢ",
        ),
        Column(
            "reconstruction_error",
            unit="residual",
            description="how far the SAE's reconstruction is from the residual",
            definition="‖x − sae.decode(f)‖₂",
        ),
        Column(
            "gini",
            tolerance=OF_ONE,
            description="how unequally the active features share the activation",
            definition="Gini coefficient of the n active magnitudes m₍₁₎ ≥ … ≥ m₍ₙ₎: "
            "Σᵢ (n + 1 − 2i) m₍ᵢ₎ / (n Σ m)",
        ),
    ],
    _compute,
)
