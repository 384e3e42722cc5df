"""Whether a little noise on the first layer's residual changes which features are strongest."""

import torch
from jaxtyping import Float
from torch import Tensor

from streamer.analysis.activations import Activations
from streamer.analysis.columns import Family, Layout, Values
from streamer.records import Column

TOP = 10


def _columns(layout: Layout) -> list[Column]:
    return [Column(f"stability_{passage}") for passage in layout.passages]


def _compute(activations: Activations, _: Values) -> Values:
    layer = activations.layers[0]
    before = _top(layer.features)
    after = _top(activations.noisy)
    both = (before & after).sum(-1).to(layer.dtype)
    either = (before | after).sum(-1).to(layer.dtype)
    jaccard = layer.where_active(both / either)
    return {
        f"stability_{passage}": jaccard[:, place]
        for place, passage in enumerate(activations.passages)
    }


def _top(features: Float[Tensor, "record passage d_sae"]) -> Tensor:
    """Which features are among the `TOP` strongest; fewer where fewer are active."""
    values, index = features.topk(min(TOP, features.shape[-1]), dim=-1)
    chosen = torch.zeros_like(features, dtype=torch.bool)
    return chosen.scatter(-1, index, values > 0)


STABILITY = Family("stability", _columns, _compute)
