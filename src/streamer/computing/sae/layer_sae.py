"""One layer's sparse autoencoder at work: SAELens' numbers, in as few passes over memory as
possible.

SAELens' encode of a JumpReLU SAE takes four times as long as its matrix product, for the
intermediate arrays of d_sae numbers a row. For the two plain architectures the same is computed
here in place, and checked against SAELens when the SAE is loaded.
"""

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

AGREEMENT = 1e-4
"""How far the in-place encoder or the linear decoder may be from SAELens', relative to the largest
number: more than rounding, far less than a missed normalisation."""


NEVER_NEGATIVE = {"standard", "jumprelu", "gated", "topk", "matching_pursuit"}
"""SAELens' architectures whose features end in a ReLU. Of any other, features may have a sign."""


class LayerSae:
    """The SAE of one layer, on the model's device."""

    def __init__(
        self,
        layer: int,
        location: str,
        sae: Any,
        fingerprint: str | None,
        revision: str | None,
        *,
        is_centred: bool,
    ) -> None:
        self.layer = layer
        self.location = location
        self.sae = sae
        self.fingerprint = fingerprint
        """A hash of a local directory's files, of large ones only their ends."""
        self.content: str | None = None
        """A hash of all of them that decide numbers."""
        self.revision = revision
        """The hub's commit of a release."""
        self.is_centred = is_centred
        """Whether it was trained on residuals less their mean over d_model, and is to be given
        such: see `processing`."""
        self.is_signed = sae.cfg.architecture() not in NEVER_NEGATIVE
        """Whether its features have a sign: active is ≠ 0 then, and the magnitude is |f|."""
        self.is_plain = self._agrees()
        """Whether it encodes as (x − b) W_enc + b_enc above a threshold, and decodes as
        f W_dec + b_dec."""

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_model"]:  # noqa: N802
        """The decoder directions, a row per feature."""
        decoder: Tensor = self.sae.W_dec
        return decoder.detach()

    @property
    def b_dec(self) -> Float[Tensor, " d_model"]:
        """What a plain SAE reconstructs where nothing is active."""
        bias: Tensor = self.sae.b_dec
        return bias.detach()

    @property
    def trained_on(self) -> str | None:
        """The model that its metadata name."""
        name: str | None = self.sae.cfg.metadata.model_name
        return name

    @property
    def trained_length(self) -> int | None:
        """Most tokens of the texts that it was trained on, if its metadata say so."""
        length: int | None = self.sae.cfg.metadata.context_size
        return length

    @property
    def dtype(self) -> torch.dtype:
        """The format that it encodes in."""
        return self.W_dec.dtype

    def encode(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_sae"]:
        """Feature activations of residuals `x`; a feature is active where it is > 0, or ≠ 0 if it
        has a sign."""
        with torch.inference_mode():
            if self.is_plain:
                return self._encode_in_place(x.to(self.dtype))
            features: Tensor = self.sae.encode(x)
        return features

    def encode_decode(
        self, x: Float[Tensor, "row d_model"]
    ) -> tuple[Float[Tensor, "row d_sae"], Float[Tensor, "row d_model"] | None]:
        """Feature activations of `x`, and the reconstruction from them unless the SAE is plain.

        In one call because an SAE that normalises its input remembers the scale of the last one.
        """
        features = self.encode(x)
        if self.is_plain:
            return features, None
        with torch.inference_mode():
            reconstruction: Tensor = self.sae.decode(features)
        return features, reconstruction

    @cached_property
    def _threshold(self) -> Tensor:
        """A feature is active above it."""
        threshold = getattr(self.sae, "threshold", None)
        return torch.zeros_like(self.sae.b_enc) if threshold is None else threshold.clamp(min=0)

    def _encode_in_place(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_sae"]:
        if self.sae.cfg.apply_b_dec_to_input:
            x = x - self.b_dec
        features = torch.addmm(self.sae.b_enc, x, self.sae.W_enc)
        return features.mul_(features > self._threshold)

    def _agrees(self) -> bool:
        """Whether the in-place encoder and the linear decoder agree with SAELens."""
        if self.sae.cfg.architecture() not in ("standard", "jumprelu"):
            return False
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(8, self.sae.cfg.d_in, generator=generator)
        scales = torch.tensor([0.1, 0.3, 1, 3, 10, 30, 100, 300])[:, None]
        x = (x * scales).to(self.W_dec)
        with torch.inference_mode():
            theirs = self.sae.encode(x)
            decoded = self.sae.decode(theirs)
            ours = self._encode_in_place(x)
            linear = theirs @ self.W_dec + self.b_dec
        same = torch.isclose(ours, theirs, rtol=AGREEMENT, atol=AGREEMENT * float(theirs.max()))
        # a feature at its threshold may fall to either side
        rare = float((~same).float().mean()) <= 1 / max(1024, self.sae.cfg.d_sae)
        far = (linear - decoded).abs().max() <= AGREEMENT * decoded.abs().max()
        return rare and bool(far)
