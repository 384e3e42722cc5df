"""How far a passage's features lie from its prompt's, at the first layer, in degrees."""

from streamer.tables.column import OF_AXIS, OF_RADIAN, Column, Tolerance
from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.angles import angle, line_angle
from streamer.tables.metrics.columns import Family, Values, counts_of
from streamer.tables.table import Layout

CONTRASTED = ("fact", "hall")
METRICS: dict[str, tuple[Tolerance, str, str]] = {
    "centroid_drift": (
        OF_RADIAN,
        "how far the centroid of the features has moved from the prompt's",
        "angle between the prompt's r̄ and the passage's",
    ),
    "axis_twist": (
        OF_AXIS,
        "how far the first axis of the features has turned from the prompt's",
        "line angle between the prompt's first principal axis and the passage's",
    ),
}
"""Tolerance, description and definition."""


def _columns(layout: Layout) -> list[Column]:
    if not layout.is_contrast:
        return []
    return [
        Column(
            f"{metric}_{passage}",
            unit="degrees",
            tolerance=tolerance,
            rests_on=counts_of(layout.layers[:1], ["prompt", passage]),
            metric=metric,
            passage=passage,
            layers=layout.layers[:1],
            description=description,
            definition=definition,
        )
        for metric, (tolerance, description, definition) in METRICS.items()
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
