"""Whether a little noise on the first layer's residual changes which features are strongest."""

from streamer.records import Column
from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.columns import Family, Layout, Values

TOP = 10


def _columns(layout: Layout) -> list[Column]:
    return [Column(f"stability_{passage}") for passage in layout.passages]


def _compute(activations: Activations, _: Values) -> Values:
    layer = activations.layers[0]
    top = min(TOP, layer.features.shape[-1])
    before, index = layer.magnitude[..., :top], layer.index[..., :top]
    after, noisy_index = activations.noisy.topk(top, dim=-1)
    same = index[..., :, None] == noisy_index[..., None, :]
    same = same & (before > 0)[..., :, None] & (after > 0)[..., None, :]
    both = same.sum((-2, -1))
    either = (before > 0).sum(-1) + (after > 0).sum(-1) - both
    jaccard = layer.where_active(both.to(layer.dtype) / either)
    return {
        f"stability_{passage}": jaccard[:, place]
        for place, passage in enumerate(activations.passages)
    }


STABILITY = Family("stability", _columns, _compute)
