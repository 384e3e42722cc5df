"""streamer's metrics written plainly: a passage at a time, from the dense d × d covariance.

What docs/metrics.md defines, for passages with two or more active features, as the benchmark's SAEs
have them. The covariance is decomposed on the CPU, in the model's format.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bench.options import Row

NOISE_STD = 0.1
TOP_STABILITY, TOP_ENTROPY = 10, 50


@dataclass(frozen=True, slots=True)
class Cloud:
    """The active decoder directions of one passage at one layer, weighted by activation."""

    centroid: Float[Tensor, " d_model"]
    axis: Float[Tensor, " d_model"]
    """Of the largest variance, a unit vector of either sign."""
    eigenvalues: Float[Tensor, " d_model"]
    """Of the covariance, largest first."""


def cloud_of(f: Float[Tensor, " d_sae"], W_dec: Float[Tensor, "d_sae d_model"]) -> Cloud:
    """Centroid and eigendecomposition of the active rows of `W_dec`."""
    active = f > 0
    r, w = W_dec[active].cpu(), (f[active] / f.sum()).cpu()
    centroid = w @ r
    spread = r - centroid
    covariance = (spread * w[:, None]).T @ spread
    values, vectors = torch.linalg.eigh(covariance)
    return Cloud(centroid, vectors[:, -1], values.flip(0).clamp(min=0))


def layer_row(
    name: str,
    x: Float[Tensor, " d_model"],
    f: Float[Tensor, " d_sae"],
    reconstruction: Float[Tensor, " d_model"],
    cloud: Cloud,
) -> Row:
    """The metrics of one passage at one layer, as columns that begin with `name`."""
    m = f[f > 0].sort(descending=True).values
    n = len(m)
    rank = torch.arange(1, n + 1, device=m.device)
    a, b, c = cloud.eigenvalues[:3].sqrt().tolist()
    p = cloud.eigenvalues[: n - 1] / cloud.eigenvalues.sum()
    p = p[p > 0]
    return {
        f"{name}_l0_norm": n,
        f"{name}_l2_norm": float(m.norm()),
        f"{name}_energy": float(m.sum()),
        f"{name}_reconstruction_error": float((x - reconstruction).norm()),
        f"{name}_gini": float(((n + 1 - 2 * rank) * m).sum() / (n * m.sum())),
        f"{name}_sphericity": c / a,
        f"{name}_elongation": b / a,
        f"{name}_shape_class": shape_class(b / a, c / a),
        f"{name}_dimensionality": float(1 / p.square().sum()),
        f"{name}_eigenvalue_entropy": float(-(p * p.log()).sum()),
        f"{name}_misalignment": line_angle(cloud.centroid, cloud.axis),
    }


def shape_class(elongation: float, sphericity: float) -> str:
    """The word for an ellipsoid of these ratios of half axes."""
    if elongation > 0.9 and sphericity > 0.9:
        return "Spherical"
    if elongation > 0.8 and sphericity < 0.6:
        return "Oblate"
    return "Prolate" if elongation < 0.6 and sphericity < 0.6 else "Triaxial"


def drift_row(
    clouds: Mapping[str, Cloud],
    features: Mapping[str, tuple[Float[Tensor, " d_sae"], ...]],
    noisy: Mapping[str, Float[Tensor, " d_sae"]],
) -> Row:
    """The metrics of a record: `clouds` and `noisy` at the first layer, `features` at all three."""
    row: Row = {}
    for passage in ("fact", "hall"):
        start, end = clouds["prompt"], clouds[passage]
        row[f"centroid_drift_{passage}"] = angle(start.centroid, end.centroid)
        row[f"axis_twist_{passage}"] = line_angle(start.axis, end.axis)
    for passage, (first, second, third) in features.items():
        row[f"stability_{passage}"] = overlap(first, noisy[passage])
        row[f"entropy_{passage}"] = entropy(first)
        cosine = second @ third / (second.norm() * third.norm())
        row[f"cross_layer_consistency_{passage}"] = float(cosine)
    for name in ("centroid_drift", "axis_twist", "entropy"):
        row[f"{name}_diff"] = row[f"{name}_hall"] - row[f"{name}_fact"]
    for name in ("stability", "cross_layer_consistency"):
        row[f"{name}_diff"] = row[f"{name}_fact"] - row[f"{name}_hall"]
    return row


def overlap(f: Float[Tensor, " d_sae"], noisy: Float[Tensor, " d_sae"]) -> float:
    """Jaccard index of the strongest features of both."""
    top = set(f.topk(TOP_STABILITY).indices.tolist())
    noisy_top = set(noisy.topk(TOP_STABILITY).indices.tolist())
    return len(top & noisy_top) / len(top | noisy_top)


def entropy(f: Float[Tensor, " d_sae"]) -> float:
    """In nats, of the strongest features' shares."""
    p = f.topk(TOP_ENTROPY).values
    p = p[p > 0] / p.sum()
    return float(-(p * p.log()).sum())


def angle(u: Float[Tensor, " d"], v: Float[Tensor, " d"]) -> float:
    """In degrees, 0 to 180."""
    cosine = float(u @ v / (u.norm() * v.norm()))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def line_angle(u: Float[Tensor, " d"], v: Float[Tensor, " d"]) -> float:
    """In degrees, 0 to 90."""
    between = angle(u, v)
    return min(between, 180 - between)
