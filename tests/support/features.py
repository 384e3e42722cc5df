"""Made-up SAE features."""

import torch
from torch import Tensor

from streamer.tables.sparse import SparseFeatures


def sparse(features: Tensor) -> SparseFeatures:
    """Those of `features` [..., d_sae] that are active, in float64."""
    dense = features.reshape(-1, features.shape[-1])
    return SparseFeatures.of(dense, (dense > 0).sum(-1).tolist(), torch.float64)
