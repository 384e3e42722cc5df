"""A batch's residuals through the SAEs of all layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from streamer.computing.sae.layer_sae import LayerSae
from streamer.computing.sae.under_noise import UnderNoise
from streamer.device.transfers import to_device
from streamer.tables.sparse import Strongest, is_active


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the SAEs make of residuals. A residual that is not finite counts as 0."""

    residual: Float[Tensor, "layer passage width"]
    """As the SAEs read them."""
    finite: Bool[Tensor, " passage"]
    """Whether the passage's residuals are finite at all layers."""
    features: tuple[Float[Tensor, "passage _"], ...]
    """A layer each, d_sae wide."""
    signed: tuple[bool, ...]
    """Whether they have a sign, a layer each."""
    reconstructions: tuple[Float[Tensor, "passage width"] | None, ...]
    """None where it is features @ W_dec + b_dec."""
    noisy: Strongest
    """Of the first layer's residual with noise added."""
    faint: Bool[Tensor, " passage"]
    """Whether that noise is too faint to say much (see `NoisePool.is_faint`)."""

    def for_the_host(self) -> Int[Tensor, "what passage"]:
        """The number of active features at each layer, whether the noise is faint, and whether all
        is finite: the one thing that the host must know before the metrics."""
        counts = [
            is_active(features, signed=signed).sum(-1)
            for features, signed in zip(self.features, self.signed, strict=True)
        ]
        return torch.stack([*counts, *(one.to(torch.int64) for one in (self.faint, self.finite))])

    def replace(self, passages: Sequence[int], other: "Encoded") -> None:
        """Put what `other` has into these passages."""
        (index,) = to_device([np.array(passages, dtype=np.int64)], self.finite.device)
        self.residual[:, index] = other.residual
        self.finite[index] = other.finite
        self.faint[index] = other.faint
        self.noisy.replace(index, other.noisy)
        for mine, new in zip(self.features, other.features, strict=True):
            mine[index] = new
        for mine_, new_ in zip(self.reconstructions, other.reconstructions, strict=True):
            if mine_ is not None and new_ is not None:
                mine_[index] = new_


def encode(
    saes: Sequence[LayerSae],
    residual: Float[Tensor, "layer passage width"],
    under_noise: UnderNoise,
    noise: Int[Tensor, " passage"],
) -> Encoded:
    """The features of `residual`, and the strongest at the first layer `under_noise`, of which each
    passage has the draws from `noise` on. Where an SAE was trained on centred residuals, they are
    centred."""
    residual = residual.to(saes[0].dtype)
    finite = residual.isfinite().all(-1).all(0)
    residual = residual.masked_fill(~finite[:, None], 0)
    for sae, x in zip(saes, residual, strict=True):
        if sae.is_centred:
            x.sub_(x.mean(-1, keepdim=True))  # `residual` is a copy of what was given
    first, x = saes[0], residual[0]
    with_noise = x + under_noise.pool.noise(x, noise)
    if first.is_plain:  # one product: the encoder's weights are read once
        features, with_first = first.encode(torch.cat([x, with_noise])).chunk(2)
        noisy = under_noise.strongest(x, noise, with_first)
        encoded = [(features, None), *(sae.encode_decode(x) for sae, x in _rest(saes, residual))]
    else:
        noisy = under_noise.strongest(x, noise, first.encode(with_noise))
        encoded = [sae.encode_decode(x) for sae, x in zip(saes, residual, strict=True)]
    return Encoded(
        residual=residual,
        finite=finite,
        features=tuple(features for features, _ in encoded),
        signed=tuple(sae.is_signed for sae in saes),
        reconstructions=tuple(reconstruction for _, reconstruction in encoded),
        noisy=noisy,
        faint=under_noise.pool.is_faint(x),
    )


def _rest(
    saes: Sequence[LayerSae], residual: Float[Tensor, "layer passage width"]
) -> list[tuple[LayerSae, Tensor]]:
    return list(zip(saes[1:], residual[1:], strict=True))
