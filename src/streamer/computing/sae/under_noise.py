"""Which features are strongest when noise is added to the residual, in as few products as possible.

To encode each of eight draws would take eight products with W_enc. But an SAE that is affine up to
a threshold makes of x + n what it makes of x, plus n W_enc; and of n there are as many as the pool
has. So the pool is encoded once, when the SAE is loaded, and a draw is an addition.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from streamer.computing.sae.layer_sae import AGREEMENT, LayerSae
from streamer.computing.sae.noise import NoisePool
from streamer.tables.metrics.stability import TOP
from streamer.tables.sparse import Strongest

AT_ONCE = 2**24
"""Most features, active or not, that a draw is added to at once: 64 MB in float32."""


class UnderNoise:
    """The SAE of the first layer, and the noise that is added to what it reads."""

    def __init__(self, sae: LayerSae, pool: NoisePool) -> None:
        self.pool = pool
        self._sae = sae
        self._encoded: Float[Tensor, "vector d_sae"] | None = None
        """pool · W_enc, unless that is larger than the SAE's own two matrices."""
        self.is_affine = False
        """Whether the strongest features are those of an affine map above a threshold. True of more
        SAEs than `LayerSae.is_plain`: one that keeps the k strongest keeps these."""
        affine = [getattr(sae.sae, name, None) for name in ("W_enc", "b_enc")]
        if pool.draws > 1 and not sae.is_signed and all(part is not None for part in affine):
            with torch.inference_mode():
                if len(pool.vectors) <= 2 * pool.vectors.shape[1]:
                    self._encoded = pool.vectors @ sae.sae.W_enc
                self.is_affine = self._agrees()
        if not self.is_affine:
            self._encoded = None

    def strongest(
        self,
        x: Float[Tensor, "passage d_model"],
        index: Int[Tensor, " passage"],
        first: Float[Tensor, "passage d_sae"],
    ) -> Strongest:
        """The `TOP` strongest features of the residuals `x` with each draw of noise. The first draw
        is that at `index` of the pool, and `first` are all features with it, as they are known."""
        draws = range(1, self.pool.draws)
        found = [self._strongest(first)]
        if self.is_affine:
            rows = max(1, AT_ONCE // self._sae.W_dec.shape[0])
            pieces = [
                Strongest.stacked([self._by_sum(pre, *piece, draw) for draw in draws])
                for piece in zip(torch.split(x, rows), torch.split(index, rows), strict=True)
                for pre in [self._pre_activations(piece[0])]
            ]
            found.append(Strongest.side_by_side(pieces))
        else:
            noisy = (x + self.pool.noise(x, index, draw) for draw in draws)
            found += [self._strongest(self._sae.encode(one)) for one in noisy]
        return Strongest.stacked(found)

    def _strongest(self, features: Float[Tensor, "passage d_sae"]) -> Strongest:
        """By magnitude: of features with a sign, those furthest from 0."""
        return Strongest.of(features.abs() if self._sae.is_signed else features, TOP)

    def _pre_activations(
        self, x: Float[Tensor, "passage d_model"]
    ) -> Float[Tensor, "passage d_sae"]:
        sae = self._sae.sae
        x = x - sae.b_dec if sae.cfg.apply_b_dec_to_input else x
        return torch.addmm(sae.b_enc, x, sae.W_enc)

    def _by_sum(
        self,
        pre: Float[Tensor, "passage d_sae"],
        x: Float[Tensor, "passage d_model"],
        index: Int[Tensor, " passage"],
        draw: int,
    ) -> Strongest:
        """With one draw; `pre` are the pre-activations of `x` without."""
        at = self.pool.at(index, draw)
        if self._encoded is None:
            added = self.pool.vectors[at] @ self._sae.sae.W_enc
        else:
            added = self._encoded[at]
        features = self.pool.scaled(added, x).add_(pre)
        threshold = getattr(self._sae.sae, "threshold", None)
        if threshold is None:
            features.relu_()
        else:
            features.mul_(features > threshold.clamp(min=0))
        return Strongest.of(features, TOP)

    def _agrees(self) -> bool:
        """Whether sums give the strongest features that the SAE encodes."""
        generator = torch.Generator().manual_seed(1)
        scales = torch.tensor([0.1, 0.3, 1, 3, 10, 30, 100, 300])[:, None]
        x = torch.randn(8, self.pool.vectors.shape[1], generator=generator) * scales
        x = x.to(self.pool.vectors)
        index = torch.arange(8, device=x.device)
        ours = self._by_sum(self._pre_activations(x), x, index, 1).values
        theirs = Strongest.of(self._sae.encode(x + self.pool.noise(x, index, 1)), TOP).values
        far = AGREEMENT * theirs.max(-1, keepdim=True).values
        return bool(((ours - theirs).abs() <= far).all())
