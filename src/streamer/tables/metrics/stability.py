"""Whether a little noise on the first layer's residual changes which features are strongest."""

from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.columns import Family, Values, counts_of
from streamer.tables.table import Column, Layout

TOP = 10


def _columns(layout: Layout) -> list[Column]:
    return [
        Column(
            f"stability_{passage}",
            discrete=True,  # of the ranks of ten features, it has few values
            rests_on=counts_of(layout.layers[:1], [passage]),
            metric="stability",
            passage=passage,
        )
        for passage in layout.passages
    ]


def _compute(activations: Activations, _: Values) -> Values:
    layer = activations.layers[0]
    top = min(TOP, layer.features.shape[-1])
    before, strongest = layer.magnitude[..., :top], layer.index[..., :top]
    after, noisy_index = activations.noisy.topk(top, dim=-1)
    same = strongest[..., :, None] == noisy_index[..., None, :]
    same = same & (before > 0)[..., :, None] & (after > 0)[..., None, :]
    both = same.sum((-2, -1))
    either = (before > 0).sum(-1) + (after > 0).sum(-1) - both
    jaccard = layer.where_active(both.to(layer.dtype) / either)
    return {
        f"stability_{passage}": jaccard[:, index]
        for index, passage in enumerate(activations.passages)
    }


STABILITY = Family("stability", _columns, _compute)
