"""The noise that stability is measured with: drawn once, looked up by record."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

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

    def vectors(self, keys: Sequence[int]) -> Float[Tensor, "record d_model"]:
        """The noise of the records with these keys."""
        index = torch.tensor([key % POOL_VECTORS for key in keys], dtype=torch.int64)
        return self._pool[index.to(self._pool.device)]
