"""Whether the second and the third layer say the same: by reconstructions, and by indices."""

from dataclasses import replace

from torch import Tensor

from streamer.tables.column import OF_ONE, Column
from streamer.tables.metrics.activations import Activations, LayerActivations
from streamer.tables.metrics.columns import Family, Values, counts_of
from streamer.tables.sparse import NAN
from streamer.tables.table import Layout

RECONSTRUCTIONS = "cross_layer_reconstruction_cosine"
INDICES = "cross_layer_consistency"


def _columns(layout: Layout) -> list[Column]:
    """None with fewer than three layers; `INDICES` only if those two SAEs have the same width."""
    if len(layout.layers) < 3:
        return []
    reconstructions = Column(
        RECONSTRUCTIONS,
        tolerance=OF_ONE,
        description="how alike two layers' reconstructions of the residual are",
        definition="cosine of sae.decode(f) at the second layer and sae.decode(f) at the third",
        heading="layers'_cosine",
    )
    indices = Column(
        INDICES,
        description="how alike the activations of features of the same index are at two layers, "
        "whose dictionaries have nothing to do with each other",
        definition="cosine of f at the second layer and f at the third, index by index",
        is_summed_up=False,
    )
    same_width = layout.d_sae[1] == layout.d_sae[2]
    return [
        replace(
            metric,
            name=f"{metric.name}_{passage}",
            metric=metric.name,
            passage=passage,
            layers=layout.layers[1:3],
            rests_on=counts_of(layout.layers[1:3], [passage]),
        )
        for metric in ((indices, reconstructions) if same_width else (reconstructions,))
        for passage in layout.passages
    ]


def _compute(activations: Activations, _: Values) -> Values:
    if len(activations.layers) < 3:
        return {}
    second, third = activations.layers[1:3]
    found = {RECONSTRUCTIONS: _of_reconstructions(second, third)}
    if second.features.d_sae == third.features.d_sae:
        product = second.by_record(second.features.dot(third.features))
        # NaN where nothing is active: nothing to compare
        found[INDICES] = product / (second.norm * third.norm)
    return {
        f"{metric}_{passage}": values[:, index]
        for metric, values in found.items()
        for index, passage in enumerate(activations.passages)
    }


def _of_reconstructions(second: LayerActivations, third: LayerActivations) -> Tensor:
    """Their cosine, [record, passage]. NaN where nothing is active at one of the layers: what it
    decodes to then does not depend on the text."""
    one, other = (layer.reconstruction for layer in (second, third))
    cosine: Tensor = (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))
    return cosine.masked_fill((second.l0 == 0) | (third.l0 == 0), NAN)


CONSISTENCY = Family("consistency", _columns, _compute)
