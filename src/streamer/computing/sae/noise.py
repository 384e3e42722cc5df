"""The noise that stability is measured with: drawn once, looked up by record."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from streamer.records import TokenizedRecord

POOL_VECTORS = 1024


class NoisePool:
    """`POOL_VECTORS` fixed vectors from N(0, std²), drawn on the CPU: every device has the same.

    A record's vector follows from its key alone (`TokenizedRecord.key`): not from its neighbours,
    its position or the batch. All passages of a record share it, so that their stabilities compare.
    """

    def __init__(
        self, d_model: int, std: float, seed: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        pool = torch.randn(POOL_VECTORS, d_model, generator=generator) * std
        self._pool: Float[Tensor, "vector d_model"] = pool.to(device, dtype)

    def vectors(self, index: Int[Tensor, " passage"]) -> Float[Tensor, "passage d_model"]:
        """The vectors at `index`, which is on the device: see `indices_of`."""
        return self._pool[index]


def indices_of(records: Sequence[TokenizedRecord], passages: int) -> npt.NDArray[np.int64]:
    """[passage]: the index of its record's vector; each record has `passages` passages."""
    found = np.array([record.key % POOL_VECTORS for record in records], dtype=np.int64)
    return np.repeat(found, passages)
