"""How far a passage's features lie from its prompt's, at the first layer, in degrees."""

from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.angles import angle, line_angle
from streamer.tables.metrics.columns import Family, Values, counts_of
from streamer.tables.table import Column, Layout, Rounding

CONTRASTED = ("fact", "hall")
METRICS: dict[str, tuple[Rounding, str, str]] = {
    "centroid_drift": (
        "radian",
        "how far the centroid of the features has moved from the prompt's",
        "angle between the prompt's r̄ and the passage's",
    ),
    "axis_twist": (
        "axis",
        "how far the first axis of the features has turned from the prompt's",
        "line angle between the prompt's first principal axis and the passage's",
    ),
}
"""What rounding is relative to, description and definition."""


def _columns(layout: Layout) -> list[Column]:
    if not layout.is_contrast:
        return []
    return [
        Column(
            f"{metric}_{passage}",
            unit="degrees",
            rounding=rounding,
            rests_on=counts_of(layout.layers[:1], ["prompt", passage]),
            metric=metric,
            passage=passage,
            layers=layout.layers[:1],
            description=description,
            definition=definition,
        )
        for metric, (rounding, description, definition) in METRICS.items()
        for passage in CONTRASTED
    ]


def _compute(activations: Activations, _: Values) -> Values:
    if "prompt" not in activations.passages:
        return {}
    shape = activations.layers[0].shape
    prompt = activations.passages.index("prompt")
    values: Values = {}
    for passage in CONTRASTED:
        other = activations.passages.index(passage)
        values[f"centroid_drift_{passage}"] = angle(
            shape.centroid[:, prompt], shape.centroid[:, other]
        )
        values[f"axis_twist_{passage}"] = line_angle(shape.axis[:, prompt], shape.axis[:, other])
    return values


DRIFT = Family("drift", _columns, _compute)
