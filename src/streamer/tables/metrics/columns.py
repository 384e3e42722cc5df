"""How families of metrics name their columns and hand in their values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from streamer.records import Column
from streamer.tables.metrics.activations import Activations, LayerActivations

Values: TypeAlias = dict[str, Tensor]
"""Column name to [record] values, floating point, NaN where undefined."""
LayerValues: TypeAlias = dict[str, Tensor]
"""Metric name to [record, passage] values at one layer."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What decides which columns there are."""

    layers: tuple[int, ...]
    passages: tuple[str, ...]
    d_sae: tuple[int, ...]
    """Width of each layer's SAE."""

    @property
    def is_contrast(self) -> bool:
        """Whether there is a fact to compare a hallucination with."""
        return {"fact", "hall"} <= set(self.passages)


@dataclass(frozen=True, slots=True)
class Family:
    """Metrics that are computed together, on the device, for a whole batch.

    `compute` must be a function of each record alone: never of its neighbours in the batch.
    """

    name: str
    columns: Callable[[Layout], Sequence[Column]]
    compute: Callable[[Activations, Values], Mapping[str, Tensor]]
    """From the activations, and the columns of the families before it, to its own columns."""


def per_passage(
    name: str,
    metrics: Sequence[Column],
    compute: Callable[[LayerActivations], LayerValues],
) -> Family:
    """A family with a column `l{layer}_{passage}_{metric}` for every layer, passage and metric."""

    def columns(layout: Layout) -> list[Column]:
        return [
            Column(f"l{layer}_{passage}_{metric.name}", metric.type, metric.categories)
            for layer in layout.layers
            for passage in layout.passages
            for metric in metrics
        ]

    def values(activations: Activations, _: Values) -> Values:
        found: Values = {}
        for layer in activations.layers:
            for metric, by_passage in compute(layer).items():
                for passage, column in zip(activations.passages, by_passage.unbind(1), strict=True):
                    found[f"l{layer.layer}_{passage}_{metric}"] = column
        return found

    return Family(name, columns, values)


def columns_of(families: Sequence[Family], layout: Layout) -> tuple[Column, ...]:
    """All columns of `families` in their order: by layer, passage and metric, then per record."""
    found = [column for family in families for column in family.columns(layout)]
    per_layer = {
        (layer, passage): f"l{layer}_{passage}_"
        for layer in layout.layers
        for passage in layout.passages
    }
    ordered = [
        column
        for prefix in per_layer.values()
        for column in found
        if column.name.startswith(prefix)
    ]
    return (*ordered, *(column for column in found if column not in ordered))


def compute(
    families: Sequence[Family], columns: Sequence[Column], activations: Activations
) -> Float[Tensor, "record column"]:
    """The values of `columns` for every record of a batch; NaN where a metric is undefined."""
    values: Values = {}
    for family in families:
        values.update(family.compute(activations, values))
    return torch.stack([values[column.name].to(activations.dtype) for column in columns], dim=1)
