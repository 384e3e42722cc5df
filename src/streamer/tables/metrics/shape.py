"""The shape of the active decoder directions: a weighted cloud of points in the residual space.

With rᵢ = W_dec[i], wᵢ = fᵢ/Σf and r̄ = Σ wᵢ rᵢ, the covariance is C = Σ wᵢ (rᵢ − r̄)(rᵢ − r̄)ᵀ, d × d.
With the rows mᵢ = √wᵢ (rᵢ − r̄) of a matrix M, C = MᵀM, and its nonzero eigenvalues are those of the
Gram matrix MMᵀ, n × n for n active features. The smaller of the two is decomposed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import embedding

from streamer.device.pool import host_pool
from streamer.device.traits import traits_of
from streamer.tables.metrics.spectrum import spectrum

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Shape:
    """The cloud that the active decoder directions of a passage form, weighted by activation."""

    centroid: Float[Tensor, "record passage d_model"]
    """r̄ = Σ wᵢ rᵢ; NaN where nothing is active."""
    axis: Float[Tensor, "record passage d_model"]
    """First principal axis, a unit vector of either sign; NaN where there is no spread."""
    eigenvalues: Float[Tensor, "record passage rank"]
    """Of the weighted covariance, largest first, at least three, exact zeros beyond its rank."""


def shape_of(
    magnitude: Float[Tensor, "record passage active"],
    index: Int[Tensor, "record passage active"],
    counts: Sequence[int],
    W_dec: Float[Tensor, "d_sae d_model"],
) -> Shape:
    """Centroid, first principal axis and spectrum of every passage.

    Of each passage the first features count, as many as `counts` says (passages of a record
    together). Passages of like counts are decomposed together, so that a dense one does not pad
    the rest. Padding adds zero rows to M, and so zero eigenvalues, and changes nothing.
    """
    records, passages, width = magnitude.shape
    d_model = W_dec.shape[1]
    device, dtype = magnitude.device, magnitude.dtype
    magnitude, index = magnitude.reshape(-1, width), index.reshape(-1, width)
    centroid = torch.full((len(index), d_model), NAN, device=device, dtype=dtype)
    axis = torch.full((len(index), d_model), NAN, device=device, dtype=dtype)
    rank = max(3, min(width, d_model))
    eigenvalues = torch.zeros(len(index), rank, device=device, dtype=dtype)

    def decompose(group: tuple[list[int], int]) -> None:
        rows, n = group
        with torch.inference_mode():
            where = torch.tensor(rows, device=device)
            r = embedding(index[where, :n], W_dec)  # five times as fast as W_dec[...]
            found = _decompose(r, magnitude[where, :n])
            centroid[where], axis[where] = found[0].to(dtype), found[1].to(dtype)
            eigenvalues[where, : found[2].shape[-1]] = found[2]

    alike = _alike(counts, traits_of(device).gathered // d_model)
    if traits_of(device).is_host:
        list(host_pool().map(decompose, alike))
    else:
        for group in alike:
            decompose(group)
    shaped = (records, passages, -1)
    return Shape(centroid.reshape(shaped), axis.reshape(shaped), eigenvalues.reshape(shaped))


def _alike(counts: Sequence[int], most: int) -> Iterator[tuple[list[int], int]]:
    """Groups of passages with their largest count: like counts together, at most so many features
    in all, but at least one passage."""
    by_count = np.argsort(counts, kind="stable")
    n = np.asarray(counts)[by_count]
    begin = int(np.searchsorted(n, 0, "right"))
    while begin < len(n):
        end = int(np.searchsorted(n, max(4, 1.1 * n[begin]), "right"))
        end = min(end, begin + max(1, most // int(n[end - 1])))
        yield by_count[begin:end].tolist(), int(n[end - 1])
        begin = end


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
