"""How evenly the features share the activation, at the first layer."""

import torch
from torch import Tensor

from streamer.tables.column import Column
from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.columns import Family, Values, counts_of
from streamer.tables.sparse import Group
from streamer.tables.table import Layout

TOP = 50
DEFINITIONS = {
    "entropy": f"−Σ p ln p, p the {TOP} largest active magnitudes normalised to sum to 1",
    "entropy_all": "−Σ p ln p, p all active magnitudes normalised to sum to 1",
}


def _columns(layout: Layout) -> list[Column]:
    return [
        Column(
            f"{metric}_{passage}",
            unit="nats",
            rests_on=counts_of(layout.layers[:1], [passage]),
            metric=metric,
            passage=passage,
            layers=layout.layers[:1],
            description=f"how evenly {who} share the activation",
            definition=DEFINITIONS[metric],
            is_summed_up=metric == "entropy",
        )
        for metric, who in (
            ("entropy", f"the {TOP} strongest features"),
            ("entropy_all", "all active features"),
        )
        for passage in layout.passages
    ]


def _compute(activations: Activations, _: Values) -> Values:
    layer = activations.layers[0]
    found = {
        "entropy": layer.by_record(_entropy(layer.features.strongest(TOP))),
        "entropy_all": layer.reduce(_entropy),
    }
    return {
        f"{metric}_{passage}": values[:, index]
        for metric, values in found.items()
        for index, passage in enumerate(activations.passages)
    }


def _entropy(group: Group) -> Tensor:
    """−Σ p ln p in nats, p the magnitudes normalised to sum to 1; NaN where nothing is active."""
    p = group.values / group.values.sum(-1, keepdim=True)  # 0/0 is NaN: nothing to share
    entropy: Tensor = torch.special.entr(p).sum(-1)
    return entropy


ENTROPY = Family("entropy", _columns, _compute)
