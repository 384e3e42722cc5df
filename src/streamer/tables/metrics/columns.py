"""How families of metrics name their columns and hand in their values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from streamer.tables.column import Column
from streamer.tables.metrics.activations import Activations, LayerActivations
from streamer.tables.table import Layout

Values: TypeAlias = dict[str, Tensor]
"""Column name to [record] values, floating point, NaN where undefined."""
LayerValues: TypeAlias = dict[str, Tensor]
"""Metric name to [record, passage] values at one layer."""


COUNT = "l0_norm"
"""The metric that counts a passage's active features, which all others rest on."""


@dataclass(frozen=True, slots=True)
class Family:
    """Metrics that are computed together, on the device, for a whole batch.

    `compute` must be a function of each record alone: never of its neighbours in the batch.
    """

    name: str
    columns: Callable[[Layout], Sequence[Column]]
    compute: Callable[[Activations, Values], Mapping[str, Tensor]]
    """From the activations, and the columns of the families before it, to its own columns."""


def name_of(metric: str, layer: int, passage: str) -> str:
    """The name of the column of `metric` at a layer."""
    return f"l{layer}_{passage}_{metric}"


def counts_of(layers: Sequence[int], passages: Sequence[str]) -> tuple[str, ...]:
    """The columns that count the active features of these passages at these layers."""
    return tuple(name_of(COUNT, layer, passage) for layer in layers for passage in passages)


def per_passage(
    name: str,
    metrics: Sequence[Column],
    compute: Callable[[LayerActivations], LayerValues],
) -> Family:
    """A family with a column `l{layer}_{passage}_{metric}` for every layer, passage and metric;
    `metrics` say what it is, under the name of the metric."""

    def columns(layout: Layout) -> list[Column]:
        return [
            replace(
                metric,
                name=name_of(metric.name, layer, passage),
                rests_on=counts_of([layer], [passage]),
                metric=metric.name,
                layer=layer,
                layers=(layer,),
                passage=passage,
            )
            for layer in layout.layers
            for passage in layout.passages
            for metric in metrics
        ]

    def values(activations: Activations, _: Values) -> Values:
        return {
            name_of(metric, layer.layer, passage): column
            for layer in activations.layers
            for metric, by_passage in compute(layer).items()
            for passage, column in zip(activations.passages, by_passage.unbind(1), strict=True)
        }

    return Family(name, columns, values)


def columns_of(families: Sequence[Family], layout: Layout) -> tuple[Column, ...]:
    """All columns of `families` in their order: by layer, passage and metric, then per record."""

    def position(column: Column) -> tuple[int, ...]:
        if column.layer is None or column.passage is None:
            return (len(layout.layers),)
        return layout.layers.index(column.layer), layout.passages.index(column.passage)

    found = [column for family in families for column in family.columns(layout)]
    return tuple(sorted(found, key=position))


def compute(
    families: Sequence[Family], columns: Sequence[Column], activations: Activations
) -> Float[Tensor, "record column"]:
    """The values of `columns` for every record of a batch; NaN where a metric is undefined."""
    values: Values = {}
    for family in families:
        values.update(family.compute(activations, values))
    return torch.stack([values[column.name].to(activations.dtype) for column in columns], dim=1)
