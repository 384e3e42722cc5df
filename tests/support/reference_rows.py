"""What streamer must say about records: every column, from the model and SAEs as files."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from support.reference import Spot, Value, cloud, record_values
from support.reference_model import Array, Gemma2, JumpRelu

POOL, NOISE_STD = 1024, 0.1


class Reference:
    """What streamer must say about records, by column name."""

    def __init__(
        self,
        model: Path,
        saes: str,
        layers: Sequence[int],
        passages: Sequence[str],
        *,
        seed: int = 0,
        draws: int = 8,
        relative: float | None = None,
    ) -> None:
        """`relative`: the noise's standard deviation in units of the residual's own."""
        self.draws, self.relative = draws, relative
        self.model = Gemma2(model)
        self.saes = [JumpRelu(Path(saes.format(layer=layer))) for layer in layers]
        self.layers, self.passages = tuple(layers), tuple(passages)
        generator = torch.Generator().manual_seed(seed)
        pool = torch.randn(POOL, self.model.cfg["hidden_size"], generator=generator) * (
            relative or NOISE_STD
        )
        self.pool = pool.double().numpy()

    def record(self, texts: Sequence[str]) -> dict[str, Value]:
        """Every column of the record with these passages."""
        tokens = [self.model.tokens(text) for text in texts]
        at = (noise_key(tokens) + np.arange(self.draws)) % POOL
        spots, noisy = {}, {}
        for passage, ids in zip(self.passages, tokens, strict=True):
            x = self.model.residuals(ids)[list(self.layers)]
            spots[passage] = [self._spot(*pair) for pair in zip(x, self.saes, strict=True)]
            size = np.sqrt((x[0] ** 2).mean()) if self.relative else 1
            noisy[passage] = [self.saes[0].encode(x[0] + size * noise) for noise in self.pool[at]]
        return record_values(self.layers, spots, noisy)

    @staticmethod
    def _spot(x: Array, sae: JumpRelu) -> Spot:
        encoded = sae.encode(x)
        return Spot(x, sae.decode(encoded.f), cloud(encoded, sae.W_dec))


def noise_key(tokens: Sequence[Sequence[int]]) -> int:
    key = 0
    for ids in tokens:
        key = zlib.crc32(np.array([*ids, -1], "<i4").tobytes(), key)
    return key
