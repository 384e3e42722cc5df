"""Whether a model ignores the mean of its residual stream, as those do whose layers begin with a
LayerNorm: tried on the model itself, as an architecture's name does not tell.

TransformerLens centres what writes to the residual stream (`center_writing_weights`): the
embeddings and the output weights of attention and MLP lose their mean over d_model. If no layer
sees that mean, the centred model's residual is the residual less its mean.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from streamer.computing.model.language_model import LanguageModel

TOLERANCE = 1e-4
"""Of the constant: far more than the rounding of float32, far less than RMSNorm makes of it."""
PASSAGES, LENGTH = 4, 6


def constants_that_arrive(model: "LanguageModel") -> list[float]:
    """Which part of a constant that is added to every dimension of the embeddings is in each
    hooked activation: 1 where it passes unseen, 0 where nothing of it arrives; NaN where it changes
    anything else."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = min(len(model.tokenizer), model.vocabulary)
    ids = torch.randint(vocabulary, (PASSAGES, LENGTH), generator=generator).tolist()
    before = model.residuals_apart(ids).cpu().double()
    constant = float(before.square().mean().sqrt())

    def add(_: Any, __: Any, embedded: Tensor) -> Tensor:
        return embedded + constant

    handle = model.embedding.register_forward_hook(add)
    try:
        moved = (model.residuals_apart(ids).cpu().double() - before) / constant
    finally:
        handle.remove()
    return [_evenly(layer) for layer in moved.unbind(0)]


def _evenly(moved: Tensor) -> float:
    mean = float(moved.mean())
    even = float((moved - mean).abs().max()) <= TOLERANCE  # False for NaN, too
    return mean if even else math.nan
