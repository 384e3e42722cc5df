"""Made-up SAE features."""

import torch
from torch import Tensor

from streamer.tables.metrics.shape import Shape, ShapesUnderWay
from streamer.tables.metrics.stability import TOP
from streamer.tables.sparse import SparseFeatures, Strongest


def sparse(features: Tensor, *, signed: bool = False) -> SparseFeatures:
    """Those of `features` [..., d_sae] that are active, in float64."""
    dense = features.reshape(-1, features.shape[-1])
    counts = [(dense != 0 if signed else dense > 0).sum(-1).tolist()]
    (found,) = SparseFeatures.of_layers([dense], counts, torch.float64, [signed])
    return found


def under_noise(*draws: Tensor) -> Strongest:
    """The strongest of the features [..., d_sae] in each draw of noise."""
    dense = [features.reshape(-1, features.shape[-1]) for features in draws]
    return Strongest.stacked([Strongest.of(features, TOP) for features in dense])


def shape_of(features: Tensor, W_dec: Tensor) -> Shape:
    """The shapes of the passages `features` [passage, d_sae]."""
    return ShapesUnderWay(sparse(features), W_dec).finish()
