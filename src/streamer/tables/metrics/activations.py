"""What the metrics are computed from: one batch's residuals and SAE features."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from streamer.tables.metrics.shape import NAN, Shape, shape_of


class LayerActivations:
    """One layer of a batch. `features` may be any SAE's; a feature is active where it is > 0."""

    def __init__(
        self,
        *,
        layer: int,
        residual: Float[Tensor, "record passage d_model"],
        reconstruction: Float[Tensor, "record passage d_model"] | None,
        features: Float[Tensor, "record passage d_sae"],
        W_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"] | None,
        counts: Sequence[int],
        dtype: torch.dtype,
    ) -> None:
        """`counts` are the numbers of active features of all passages, record by record, on the
        host: shapes depend on it, and reading it here would make the device wait once a metric.
        `reconstruction` is None where it is features @ W_dec + b_dec."""
        self.layer = layer
        self.residual = residual.to(dtype)
        self._reconstruction = reconstruction
        self.features = features
        self.W_dec = W_dec
        self.b_dec = b_dec
        self.counts = counts
        self.dtype = dtype
        width = max(1, *counts)
        values, index = features.topk(width, dim=-1)
        self.magnitude: Float[Tensor, "record passage active"] = values.clamp(min=0).to(dtype)
        """Activations of the active features, largest first, zero behind the last one."""
        self.index: Int[Tensor, "record passage active"] = index
        self.active: Bool[Tensor, "record passage active"] = values > 0
        self.l0: Int[Tensor, "record passage"] = self.active.sum(-1)

    @cached_property
    def energy(self) -> Float[Tensor, "record passage"]:
        """Sum of the active magnitudes."""
        return self.magnitude.sum(-1)

    @cached_property
    def shape(self) -> Shape:
        """Computed once, for every family that asks."""
        return shape_of(self.magnitude, self.index, self.counts, self.W_dec)

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

    def where_active(
        self, values: Float[Tensor, "record passage"]
    ) -> Float[Tensor, "record passage"]:
        """`values`, NaN where no feature is active."""
        return values.masked_fill(self.l0 == 0, NAN)


@dataclass(frozen=True, slots=True)
class Activations:
    """All layers of a batch."""

    passages: tuple[str, ...]
    layers: tuple[LayerActivations, ...]
    noisy: Float[Tensor, "record passage d_sae"]
    """Features of the first layer's residual with noise added."""

    @property
    def dtype(self) -> torch.dtype:
        """What metrics are computed in."""
        return self.layers[0].dtype
