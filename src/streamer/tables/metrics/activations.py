"""What the metrics are computed from: one batch's residuals and SAE features."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from streamer.tables.metrics.shape import Shape, ShapesUnderWay
from streamer.tables.sparse import Group, SparseFeatures, Strongest


class LayerActivations:
    """One layer of a batch. `features` may be any SAE's; a feature is active where it is not 0, and
    one with a sign has its magnitude in the other direction."""

    def __init__(
        self,
        *,
        layer: int,
        residual: Float[Tensor, "record passage d_model"],
        reconstruction: Float[Tensor, "record passage d_model"] | None,
        features: SparseFeatures,
        W_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"] | None,
    ) -> None:
        """`features` are those of all passages, record by record. `reconstruction` is None where it
        is features @ W_dec + b_dec."""
        self.layer = layer
        self.dtype = features.values.dtype
        self.residual = residual.to(self.dtype)
        self.features = features
        self.W_dec = W_dec
        self.b_dec = b_dec
        self._reconstruction = reconstruction

    def by_record(self, values: Shaped[Tensor, "all_passages *_"]) -> Shaped[Tensor, "..."]:
        """`values` of all passages as [record, passage, …]."""
        return values.reshape(*self.residual.shape[:2], *values.shape[1:])

    def reduce(
        self, compute: Callable[[Group], Float[Tensor, " member"]]
    ) -> Float[Tensor, "record passage"]:
        """What `compute` makes of each passage's active features; NaN where there are none."""
        return self.by_record(self.features.reduce(compute))

    @cached_property
    def l0(self) -> Int[Tensor, "record passage"]:
        """How many features are active."""
        return self.by_record(self.features.l0)

    @cached_property
    def energy(self) -> Float[Tensor, "record passage"]:
        """Sum of the active magnitudes; NaN where there are none."""
        return self.reduce(lambda group: group.values.sum(-1))

    @cached_property
    def norm(self) -> Float[Tensor, "record passage"]:
        """Euclidean norm of the active magnitudes; NaN where there are none."""
        return self.reduce(lambda group: group.values.norm(dim=-1))

    @cached_property
    def shapes_under_way(self) -> ShapesUnderWay:
        """Begun when it is first asked for."""
        return ShapesUnderWay(self.features, self.W_dec)

    @cached_property
    def shape(self) -> Shape:
        """Computed once, for every family that asks."""
        found = self.shapes_under_way.finish()
        return Shape(*map(self.by_record, (found.centroid, found.axis, found.eigenvalues)))

    @cached_property
    def reconstruction(self) -> Float[Tensor, "record passage d_model"]:
        """What the SAE makes of its features."""
        if self._reconstruction is not None:
            return self._reconstruction.to(self.dtype)
        # Σ fᵢ rᵢ is the centroid, not yet divided by Σ fᵢ
        active = (self.shape.centroid * self.energy[..., None]).masked_fill(
            (self.l0 == 0)[..., None], 0
        )
        return active if self.b_dec is None else active + self.b_dec.to(self.dtype)


@dataclass(frozen=True, slots=True)
class Activations:
    """All layers of a batch."""

    passages: tuple[str, ...]
    layers: tuple[LayerActivations, ...]
    noisy: Strongest
    """Of the first layer's residual with each draw of noise added, record by record."""

    def begin(self) -> None:
        """Let the device and the host's threads begin what takes them longest."""
        for layer in self.layers:
            _ = layer.shapes_under_way

    @property
    def dtype(self) -> torch.dtype:
        """What metrics are computed in."""
        return self.layers[0].dtype
