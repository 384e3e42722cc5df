"""Whether a little noise on the first layer's residual changes which features are strongest."""

from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.columns import Family, Values, counts_of
from streamer.tables.sparse import NAN
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
    before, after = layer.features.strongest(TOP), activations.noisy.strongest(TOP)
    same = before.indices[:, :, None] == after.indices[:, None, :]
    same = same & (before.values > 0)[:, :, None] & (after.values > 0)[:, None, :]
    both = same.sum((1, 2))
    either = (before.values > 0).sum(-1) + (after.values > 0).sum(-1) - both
    jaccard = (both.to(layer.dtype) / either).masked_fill(before.counts == 0, NAN)
    jaccard = layer.by_record(jaccard)
    return {
        f"stability_{passage}": jaccard[:, index]
        for index, passage in enumerate(activations.passages)
    }


STABILITY = Family("stability", _columns, _compute)
