"""How evenly the strongest features share the activation, at the first layer."""

import torch

from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.columns import Family, Values, counts_of
from streamer.tables.table import Column, Layout

TOP = 50


def _columns(layout: Layout) -> list[Column]:
    return [
        Column(
            f"entropy_{passage}",
            unit="nats",
            rests_on=counts_of(layout.layers[:1], [passage]),
            metric="entropy",
            passage=passage,
        )
        for passage in layout.passages
    ]


def _compute(activations: Activations, _: Values) -> Values:
    """−Σ p ln p in nats, p the `TOP` largest active magnitudes normalised to sum to 1."""
    layer = activations.layers[0]
    top = layer.features.strongest(TOP).values
    p = top / top.sum(-1, keepdim=True)  # 0/0 is NaN: nothing active, nothing to share
    entropy = layer.by_record(torch.special.entr(p).sum(-1))
    return {
        f"entropy_{passage}": entropy[:, index]
        for index, passage in enumerate(activations.passages)
    }


ENTROPY = Family("entropy", _columns, _compute)
