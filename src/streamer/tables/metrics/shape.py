"""The shape of the active decoder directions: a weighted cloud of points in the residual space.

With rᵢ = W_dec[i], wᵢ = fᵢ/Σf and r̄ = Σ wᵢ rᵢ, the covariance is C = Σ wᵢ (rᵢ − r̄)(rᵢ − r̄)ᵀ, d × d.
With the rows mᵢ = √wᵢ (rᵢ − r̄) of a matrix M, C = MᵀM, and its nonzero eigenvalues are those of the
Gram matrix MMᵀ, n × n for n active features. The smaller of the two is decomposed.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import embedding

from streamer.device.pool import host_pool
from streamer.device.traits import traits_of
from streamer.tables.metrics.spectrum import spectrum
from streamer.tables.sparse import NAN, SparseFeatures, like_counts


@dataclass(frozen=True, slots=True)
class Shape:
    """The cloud that the active decoder directions of a passage form, weighted by activation."""

    centroid: Float[Tensor, "*passage d_model"]
    """r̄ = Σ wᵢ rᵢ; NaN where nothing is active."""
    axis: Float[Tensor, "*passage d_model"]
    """First principal axis, a unit vector of either sign; NaN where there is no spread."""
    eigenvalues: Float[Tensor, "*passage rank"]
    """Of the weighted covariance, largest first, at least three, exact zeros beyond its rank."""


def shape_of(features: SparseFeatures, W_dec: Float[Tensor, "d_sae d_model"]) -> Shape:
    """Centroid, first principal axis and spectrum of every passage.

    Passages of like counts are decomposed together, so that a dense one does not pad the rest.
    Padding adds zero rows to M, and so zero eigenvalues, and changes nothing.
    """
    d_model = W_dec.shape[1]
    device, dtype = features.values.device, features.values.dtype
    centroid = torch.full((len(features), d_model), NAN, device=device, dtype=dtype)
    axis = torch.full((len(features), d_model), NAN, device=device, dtype=dtype)
    rank = max(3, min(max(features.counts, default=0), d_model))
    eigenvalues = torch.zeros(len(features), rank, device=device, dtype=dtype)

    def decompose(alike: tuple[npt.NDArray[np.int64], int]) -> None:
        members, n = alike
        with torch.inference_mode():
            rows = torch.from_numpy(members).to(device)
            group = features.padded(rows, n)
            r = embedding(group.indices, W_dec)  # five times as fast as W_dec[...]
            found = _decompose(r, group.values)
            centroid[rows], axis[rows] = found[0].to(dtype), found[1].to(dtype)
            eigenvalues[rows, : found[2].shape[-1]] = found[2]

    groups = like_counts(features.counts, traits_of(device).gathered // d_model)
    if traits_of(device).is_host:
        list(host_pool().map(decompose, groups))
    else:
        for group in groups:
            decompose(group)
    return Shape(centroid, axis, eigenvalues)


def _decompose(
    r: Float[Tensor, "passage n d_model"], f: Float[Tensor, "passage n"]
) -> tuple[
    Float[Tensor, "passage d_model"], Float[Tensor, "passage d_model"], Float[Tensor, "passage k"]
]:
    """Centroid, first principal axis and eigenvalues (largest first) of weighted points `r`, which
    are overwritten.

    Products over d_model are in the format of `r`: a row of M is as exact as its weight is small,
    so small eigenvalues are, too. The eigenvalue problem is in that of `f`.
    """
    w = (f / f.sum(-1, keepdim=True)).to(r.dtype)
    size = (w * vector_norm(r, dim=-1).square()).sum(-1, keepdim=True)
    centroid = torch.bmm(w[:, None], r)
    M = r.sub_(centroid).mul_(w.sqrt()[..., None])
    by_gram = r.shape[1] <= r.shape[2]
    values, first = spectrum((M @ M.mT if by_gram else M.mT @ M).to(f.dtype))
    first = first.to(r.dtype)
    # n points span at most n − 1 dimensions around their centroid; beyond is rounding
    n = (f > 0).sum(-1, keepdim=True)
    values = values.flip(-1).clamp(min=0)
    values = values * (torch.arange(values.shape[-1], device=n.device) < n - 1)
    axis = torch.bmm(first[:, None], M)[:, 0] if by_gram else first
    axis = axis / axis.norm(dim=-1, keepdim=True)
    # features that share one direction have no spread, whatever rounding makes of it
    point = values[:, :1] <= (64 * torch.finfo(r.dtype).eps) ** 2 * size
    return centroid[:, 0], axis.masked_fill(point, NAN), values.masked_fill(point, 0)
