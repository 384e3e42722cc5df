"""Ratios, class and spread of the cloud that the active decoder directions form (see `shape`)."""

import torch
from torch import Tensor

from streamer.tables.metrics.activations import LayerActivations
from streamer.tables.metrics.angles import line_angle
from streamer.tables.metrics.columns import LayerValues, per_passage
from streamer.tables.sparse import NAN
from streamer.tables.table import Column

CLASSES = ("Spherical", "Oblate", "Prolate", "Triaxial")


def _compute(layer: LayerActivations) -> LayerValues:
    shape = layer.shape
    total = shape.eigenvalues.sum(-1)
    semi_axes = shape.eigenvalues[..., :3].sqrt()
    b_over_a = semi_axes[..., 1] / semi_axes[..., 0]  # 0/0 is NaN: no spread, no shape
    c_over_a = semi_axes[..., 2] / semi_axes[..., 0]
    p = shape.eigenvalues / total[..., None]
    return {
        "sphericity": c_over_a,
        "elongation": b_over_a,
        "shape_class": _classify(b_over_a, c_over_a),
        "dimensionality": total**2 / shape.eigenvalues.square().sum(-1),
        "eigenvalue_entropy": torch.special.entr(p).sum(-1),
        "misalignment": line_angle(shape.centroid, shape.axis),
    }


def _classify(b_over_a: Tensor, c_over_a: Tensor) -> Tensor:
    """Which of `CLASSES`, as a number; NaN where the ratios are."""
    spherical = (b_over_a > 0.9) & (c_over_a > 0.9)
    oblate = (b_over_a > 0.8) & (c_over_a < 0.6)
    prolate = (b_over_a < 0.6) & (c_over_a < 0.6)
    found = torch.full_like(b_over_a, CLASSES.index("Triaxial"))
    for name, holds in (("Prolate", prolate), ("Oblate", oblate), ("Spherical", spherical)):
        found = found.masked_fill(holds, CLASSES.index(name))
    return found.masked_fill(b_over_a.isnan(), NAN)


GEOMETRY = per_passage(
    "geometry",
    [
        Column("sphericity"),
        Column("elongation"),
        Column("shape_class", "category", CLASSES, discrete=True),
        Column("dimensionality", unit="dimensions"),
        Column("eigenvalue_entropy", unit="nats"),
        Column("misalignment", unit="degrees", rounding="axis"),
    ],
    _compute,
)
