"""The shape of the active decoder directions: a weighted cloud of points in the residual space.

With rᵢ = W_dec[i], wᵢ = fᵢ/Σf and r̄ = Σ wᵢ rᵢ, the covariance is C = Σ wᵢ (rᵢ − r̄)(rᵢ − r̄)ᵀ, d × d.
With the rows mᵢ = √wᵢ (rᵢ − r̄) of a matrix M, C = MᵀM, and its nonzero eigenvalues are those of the
Gram matrix MMᵀ, n × n for n active features. The smaller of the two is decomposed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import embedding

from streamer.device.pool import host_pool
from streamer.device.traits import traits_of
from streamer.device.transfers import ToHost, numbers_to_device
from streamer.tables.metrics.spectrum import spectrum
from streamer.tables.sparse import NAN, Alike, SparseFeatures


@dataclass(frozen=True, slots=True)
class Shape:
    """The cloud that the active decoder directions of a passage form, weighted by activation."""

    centroid: Float[Tensor, "*passage d_model"]
    """r̄ = Σ wᵢ rᵢ; NaN where nothing is active."""
    axis: Float[Tensor, "*passage d_model"]
    """First principal axis, a unit vector of either sign; NaN where there is no spread."""
    eigenvalues: Float[Tensor, "*passage rank"]
    """Of the weighted covariance, largest first, at least three, exact zeros beyond its rank."""


class ShapesUnderWay:
    """Centroid, first principal axis and spectrum of a layer's passages, begun on the device.

    Passages of like counts are decomposed together, so that a dense one does not pad the rest.
    Padding adds zero rows to M, and so zero eigenvalues, and changes nothing.

    An accelerator makes the matrices and sends them to the host, whose threads decompose them while
    it works on the next batch: CUDA's solvers make the host wait for their status, MPS has none.
    Where the host is the device, its threads do all of it, a group each, when it is asked for.
    """

    def __init__(self, features: SparseFeatures, W_dec: Float[Tensor, "d_sae d_model"]) -> None:
        self._features, self._W_dec = features, W_dec
        device = features.values.device
        traits = traits_of(device)
        most = traits.gathered // W_dec.shape[1]
        self._alike = [piece for alike in features.alike for piece in alike.split(most)]
        self._solving: list[Solving] | None = None
        if not traits.is_host:
            self._solving = [Solving(ToHost(self._cloud(one).gram)) for one in self._alike]

    def finish(self) -> Shape:
        """All shapes. Waits for the host's threads, and for the device only if they do."""
        device, dtype = self._features.values.device, self._features.values.dtype
        passages, d_model = len(self._features), self._W_dec.shape[1]
        centroid = torch.full((passages, d_model), NAN, device=device, dtype=dtype)
        axis = torch.full((passages, d_model), NAN, device=device, dtype=dtype)
        rank = max(3, min(max((one.width for one in self._alike), default=0), d_model))
        eigenvalues = torch.zeros(passages, rank, device=device, dtype=dtype)

        def decompose(one: Alike, solved: tuple[Tensor, Tensor] | None = None) -> None:
            with torch.inference_mode():
                cloud, rows = self._cloud(one), one.passages
                values, first = solved or spectrum(cloud.gram.to(dtype))
                found = cloud.decomposed(values, first.to(self._W_dec.dtype))
                centroid[rows], axis[rows] = found[0].to(dtype), found[1].to(dtype)
                eigenvalues[rows, : found[2].shape[-1]] = found[2]

        if self._solving is None:
            list(host_pool().map(decompose, self._alike))
        elif self._solving:
            solved = [one.to(dtype) for solving in self._solving for one in solving.result()]
            on_device = numbers_to_device(solved, device)
            pairs = zip(on_device[::2], on_device[1::2], strict=True)
            for one, pair in zip(self._alike, pairs, strict=True):
                decompose(one, pair)
        return Shape(centroid, axis, eigenvalues)

    def _cloud(self, alike: Alike) -> "Cloud":
        """Made anew each time: all clouds of a batch together would not fit an accelerator."""
        strongest = self._features.padded(alike.passages, alike.width)
        r = embedding(strongest.indices, self._W_dec)  # five times as fast as W_dec[...]
        if strongest.signs is not None:  # a negative feature points the other way
            r *= strongest.signs[..., None].to(r.dtype)
        return Cloud(r, strongest.values)


class Cloud:
    """Weighted points of a group of passages, around their centroids.

    Products over d_model are in the format of `r`: a row of M is as exact as its weight is small,
    so small eigenvalues are, too. The eigenvalue problem is in that of `f`, or float64.
    """

    def __init__(
        self, r: Float[Tensor, "passage n d_model"], f: Float[Tensor, "passage n"]
    ) -> None:
        """Of points `r`, which are overwritten, with activations `f`."""
        w = (f / f.sum(-1, keepdim=True)).to(r.dtype)
        self._size = (w * vector_norm(r, dim=-1).square()).sum(-1, keepdim=True)
        self._centroid = torch.bmm(w[:, None], r)
        self._M = r.sub_(self._centroid).mul_(w.sqrt()[..., None])
        self._by_gram = r.shape[1] <= r.shape[2]
        self._n = (f > 0).sum(-1, keepdim=True)

    @property
    def gram(self) -> Float[Tensor, "passage k k"]:
        """MMᵀ or MᵀM, whichever is smaller."""
        M = self._M
        return M @ M.mT if self._by_gram else M.mT @ M

    def decomposed(
        self, values: Float[Tensor, "passage k"], first: Float[Tensor, "passage k"]
    ) -> tuple[
        Float[Tensor, "passage d_model"],
        Float[Tensor, "passage d_model"],
        Float[Tensor, "passage k"],
    ]:
        """Centroid, first principal axis and eigenvalues (largest first), from the eigenvalues of
        `gram` (smallest first) and the eigenvector of the largest."""
        # n points span at most n − 1 dimensions around their centroid; beyond is rounding
        values = values.flip(-1).clamp(min=0)
        values = values * (torch.arange(values.shape[-1], device=values.device) < self._n - 1)
        axis = torch.bmm(first[:, None], self._M)[:, 0] if self._by_gram else first
        axis = axis / axis.norm(dim=-1, keepdim=True)
        # features that share one direction have no spread, whatever rounding makes of it
        point = values[:, :1] <= (64 * torch.finfo(self._M.dtype).eps) ** 2 * self._size
        axis, values = axis.masked_fill(point, NAN), values.masked_fill(point, 0)
        return self._centroid[:, 0], axis, values


class Solving:
    """The spectra of matrices that are on their way to the host, in its threads."""

    AT_ONCE = 16
    """Matrices that a thread takes: few, so that a batch of like ones is shared by all threads."""

    def __init__(self, gram: ToHost) -> None:
        pieces = range(0, len(gram), self.AT_ONCE)
        self._found = [host_pool().submit(self._solve, gram, piece) for piece in pieces]

    def _solve(self, gram: ToHost, first: int) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            return spectrum(gram.wait()[first : first + self.AT_ONCE].to(torch.float64))

    def result(self) -> tuple[Float[Tensor, "passage k"], Float[Tensor, "passage k"]]:
        """Eigenvalues and first eigenvectors; waits for the threads."""
        values, first = zip(*(found.result() for found in self._found), strict=True)
        return torch.cat(values), torch.cat(first)
