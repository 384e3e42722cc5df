"""Ratios, class and spread of the cloud that the active decoder directions form (see `shape`)."""

import torch
from torch import Tensor

from streamer.tables.column import OF_AXIS, Column
from streamer.tables.metrics.activations import LayerActivations
from streamer.tables.metrics.angles import line_angle
from streamer.tables.metrics.columns import LayerValues, per_passage
from streamer.tables.sparse import NAN

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
        Column(
            "sphericity",
            description="how round the cloud of active decoder directions is: third axis to first",
            definition="c/a",
        ),
        Column(
            "elongation",
            description="how round that cloud is: second axis to first",
            definition="b/a",
        ),
        Column(
            "shape_class",
            "category",
            CLASSES,
            discrete=True,
            description="the kind of ellipsoid that the cloud is like",
            definition="Spherical (b/a > .9 and c/a > .9), Oblate (b/a > .8 and c/a < .6), "
            "Prolate (both < .6), else Triaxial",
        ),
        Column(
            "dimensionality",
            unit="dimensions",
            description="in how many dimensions the cloud spreads",
            definition="participation ratio (Σλ)² / Σλ²",
        ),
        Column(
            "eigenvalue_entropy",
            unit="nats",
            description="how evenly the cloud spreads over its axes",
            definition="−Σ p ln p, p = λ/Σλ",
        ),
        Column(
            "misalignment",
            unit="degrees",
            tolerance=OF_AXIS,
            description="how far the cloud's first axis is from its centroid's direction",
            definition="line angle between the centroid r̄ and the first principal axis",
        ),
    ],
    _compute,
)
