"""The noise that stability is measured with: drawn once, looked up by record."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from streamer.config import NoiseScale
from streamer.records import TokenizedRecord

POOL_VECTORS = 1024
FAINT = 0.01
"""Noise below this share of a residual, both as root mean squares, hardly moves any feature."""


class NoisePool:
    """`POOL_VECTORS` fixed vectors from N(0, std²), drawn on the CPU: every device has the same.

    A record's vectors follow from its key alone (`TokenizedRecord.key`): not from its neighbours,
    its position or the batch. All passages of a record share them, so that their stabilities
    compare. Its first draw is at `key % POOL_VECTORS`, the others are those behind it, and behind
    the last is the first.
    """

    def __init__(
        self,
        d_model: int,
        std: float,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        draws: int = 1,
        scale: NoiseScale = "absolute",
    ) -> None:
        """`draws`: how many a record has. `scale`: what the vectors are in units of: see
        `RunConfig.noise_scale`."""
        generator = torch.Generator().manual_seed(seed)
        pool = torch.randn(POOL_VECTORS, d_model, generator=generator) * std
        self.vectors: Float[Tensor, "vector d_model"] = pool.to(device, dtype)
        """All of them, not scaled."""
        self.std = std
        self.draws = draws
        self.scale = scale

    def noise(
        self, x: Float[Tensor, "passage d_model"], index: Int[Tensor, " passage"], draw: int = 0
    ) -> Float[Tensor, "passage d_model"]:
        """The noise of this `draw` for the residuals `x` of passages whose first is at `index`,
        which is on the device: see `indices_of`."""
        return self.scaled(self.vectors[self.at(index, draw)], x)

    def at(self, index: Int[Tensor, " passage"], draw: int) -> Int[Tensor, " passage"]:
        """Where in the pool a draw is, if the first is at `index`."""
        return (index + draw) % POOL_VECTORS

    def scaled(
        self, drawn: Float[Tensor, "passage _"], x: Float[Tensor, "passage d_model"]
    ) -> Float[Tensor, "passage _"]:
        """What was `drawn` from the pool, or is linear in it, for the residuals `x`."""
        return drawn if self.scale == "absolute" else drawn * _size(x)[:, None]

    def is_faint(self, x: Float[Tensor, "passage d_model"]) -> Bool[Tensor, " passage"]:
        """Whether noise that does not grow with the residuals `x` is below `FAINT` of them."""
        if self.scale != "absolute":
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return FAINT * _size(x) > self.std


def _size(x: Float[Tensor, "passage d_model"]) -> Float[Tensor, " passage"]:
    """‖x‖ / √d_model: the root mean square of a residual's numbers."""
    return x.square().mean(-1).sqrt()


def indices_of(records: Sequence[TokenizedRecord], passages: int) -> npt.NDArray[np.int64]:
    """[passage]: the index of its record's first vector; each record has `passages` passages."""
    found = np.array([record.key % POOL_VECTORS for record in records], dtype=np.int64)
    return np.repeat(found, passages)
