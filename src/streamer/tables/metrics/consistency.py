"""Whether the second and the third layer activate the same features."""

from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.columns import Family, Values, counts_of
from streamer.tables.table import Column, Layout


def _columns(layout: Layout) -> list[Column]:
    """None with fewer than three layers, or if those two SAEs differ in width."""
    if len(layout.layers) < 3 or layout.d_sae[1] != layout.d_sae[2]:
        return []
    return [
        Column(
            f"cross_layer_consistency_{passage}",
            rests_on=counts_of(layout.layers[1:3], [passage]),
            metric="cross_layer_consistency",
            passage=passage,
            heading="consistency",
        )
        for passage in layout.passages
    ]


def _compute(activations: Activations, _: Values) -> Values:
    if len(activations.layers) < 3:
        return {}
    second, third = activations.layers[1:3]
    if second.features.d_sae != third.features.d_sae:
        return {}
    product = second.by_record(second.features.dot(third.features))
    # NaN where nothing is active: nothing to compare
    cosine = product / (second.norm * third.norm)
    return {
        f"cross_layer_consistency_{passage}": cosine[:, index]
        for index, passage in enumerate(activations.passages)
    }


CONSISTENCY = Family("consistency", _columns, _compute)
