"""Fact against hallucination: differences of the per-record metrics.

Signed so that what is expected of a hallucination is positive: it drifts, twists and spreads more,
and is less stable and consistent.
"""

from collections.abc import Mapping

from torch import Tensor

from streamer.records import Column
from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.columns import Family, Layout, Values
from streamer.tables.metrics.consistency import CONSISTENCY

MORE_IN_HALLUCINATION = ("centroid_drift", "axis_twist", "entropy")
LESS_IN_HALLUCINATION = ("stability", "cross_layer_consistency")


def _columns(layout: Layout) -> list[Column]:
    if not layout.is_contrast:
        return []
    absent = () if CONSISTENCY.columns(layout) else ("cross_layer_consistency",)
    metrics = (*MORE_IN_HALLUCINATION, *LESS_IN_HALLUCINATION)
    return [Column(f"{metric}_diff") for metric in metrics if metric not in absent]


def _compute(_: Activations, values: Mapping[str, Tensor]) -> Values:
    found: Values = {}
    for metrics, more, less in (
        (MORE_IN_HALLUCINATION, "hall", "fact"),
        (LESS_IN_HALLUCINATION, "fact", "hall"),
    ):
        for metric in metrics:
            if f"{metric}_{more}" in values:
                found[f"{metric}_diff"] = values[f"{metric}_{more}"] - values[f"{metric}_{less}"]
    return found


DIFFERENCES = Family("differences", _columns, _compute)
