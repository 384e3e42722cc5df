"""Fact against hallucination: differences of the per-record metrics.

Signed so that what is expected of a hallucination is positive: it drifts, twists and spreads more,
and is less stable and consistent.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from streamer.tables.column import Column
from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.columns import Family, Values
from streamer.tables.metrics.consistency import CONSISTENCY, INDICES, RECONSTRUCTIONS
from streamer.tables.metrics.drift import DRIFT
from streamer.tables.metrics.entropy import ENTROPY
from streamer.tables.metrics.stability import STABILITY
from streamer.tables.table import Layout

MORE_IN_HALLUCINATION = ("centroid_drift", "axis_twist", "entropy", "entropy_all")
LESS_IN_HALLUCINATION = ("stability", INDICES, RECONSTRUCTIONS)
OF = (DRIFT, ENTROPY, STABILITY, CONSISTENCY)
"""The families whose columns are compared."""


def _columns(layout: Layout) -> list[Column]:
    if not layout.is_contrast:
        return []
    sides = {
        (column.metric, column.passage): column
        for family in OF
        for column in family.columns(layout)
    }
    return [
        _difference(metric, sides[metric, "fact"], sides[metric, "hall"])
        for metric in (*MORE_IN_HALLUCINATION, *LESS_IN_HALLUCINATION)
        if (metric, "fact") in sides
    ]


def _difference(metric: str, fact: Column, hall: Column) -> Column:
    more, less = (hall, fact) if metric in MORE_IN_HALLUCINATION else (fact, hall)
    return Column(
        f"{metric}_diff",
        unit=fact.unit,
        discrete=fact.discrete,
        tolerance=replace(fact.tolerance, of="parts"),
        parts=(fact.name, hall.name),
        rests_on=tuple(dict.fromkeys((*fact.rests_on, *hall.rests_on))),
        metric=f"{metric}_diff",
        layers=fact.layers,
        description=f"how {metric} differs between fact and hallucination",
        definition=f"{more.name} − {less.name}",
    )


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
