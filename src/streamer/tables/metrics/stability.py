"""Whether a little noise on the first layer's residual changes which features are strongest."""

from streamer.tables.column import Column
from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.columns import Family, Values, counts_of
from streamer.tables.sparse import NAN
from streamer.tables.table import Layout

TOP = 10


def _columns(layout: Layout) -> list[Column]:
    return [
        Column(
            f"stability_{passage}",
            discrete=True,  # of the ranks of ten features: rounding changes a rank, or nothing
            rests_on=counts_of(layout.layers[:1], [passage]),
            metric="stability",
            passage=passage,
            layers=layout.layers[:1],
            description="how much of the strongest features a little noise on the residual leaves",
            definition=f"mean over noise_draws draws of the Jaccard index of the {TOP} strongest "
            "features of x and of x + noise",
        )
        for passage in layout.passages
    ]


def _compute(activations: Activations, _: Values) -> Values:
    layer = activations.layers[0]
    before, after = layer.features.strongest(TOP), activations.noisy
    same = before.indices[:, :, None] == after.indices[:, :, None, :]  # [draw, passage, …]
    same = same & (before.values > 0)[:, :, None] & (after.values > 0)[:, :, None, :]
    both = same.sum((2, 3))
    either = (before.values > 0).sum(-1) + (after.values > 0).sum(-1) - both
    jaccard = (both.to(layer.dtype) / either).mean(0).masked_fill(before.counts == 0, NAN)
    jaccard = layer.by_record(jaccard)
    return {
        f"stability_{passage}": jaccard[:, index]
        for index, passage in enumerate(activations.passages)
    }


STABILITY = Family("stability", _columns, _compute)
