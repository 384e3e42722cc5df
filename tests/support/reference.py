"""What streamer must measure, worked out the slow way: one text at a time, in float64, with the
dense covariance. It shares no code with streamer.

Beside every value stands how well it is determined, so that a test can tell rounding from error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from support.reference_model import Array, Encoded, product

RADIAN = math.degrees(1)
DIFFERENCES = {
    "centroid_drift": 1, "axis_twist": 1, "entropy": 1, "entropy_all": 1,
    "stability": -1, "cross_layer_consistency": -1, "cross_layer_reconstruction_cosine": -1,
}  # fmt: skip
"""hall − fact has the sign 1, fact − hall the sign −1."""


class Value(NamedTuple):
    """A number or a class, None where it is undefined."""

    value: float | str | None
    scale: float = 0.0
    """What a relative tolerance is relative to."""
    margin: float = math.inf
    """How near the nearest decision is that it rests on (a threshold, a tenth place)."""


NULL = Value(None)


def number(value: float, scale: float | None = None, margin: float = math.inf) -> Value:
    return Value(float(value), abs(float(value)) if scale is None else float(scale), margin)


@dataclass(frozen=True)
class Cloud:
    """The active features of one passage as weighted points: the decoder's rows."""

    encoded: Encoded
    centroid: Array | None = None
    lean: float = 1.0
    """How much larger the rows are than their mean, in which they partly cancel."""
    eigenvalues: Array | None = None
    axis: Array | None = None
    gap: float = 1.0
    """(λ₁ − λ₂)/λ₁: what keeps the first axis from turning."""

    @property
    def magnitudes(self) -> Array:
        """Of the active features, smallest first."""
        return np.sort(self.encoded.f[self.encoded.f > 0])


def cloud(encoded: Encoded, W_dec: Array) -> Cloud:
    active = encoded.f > 0
    rows, f, n = W_dec[active], encoded.f[active], int(active.sum())
    if n == 0:
        return Cloud(encoded)
    w = f / f.sum()
    centroid = w @ rows
    lean = float(w @ np.linalg.norm(rows, axis=1) / np.linalg.norm(centroid))
    if n == 1:
        return Cloud(encoded, centroid, lean)
    spread = rows - centroid
    covariance = product((spread * w[:, None]).T.copy(), spread)
    values, vectors = (a.numpy() for a in torch.linalg.eigh(torch.from_numpy(covariance)))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    values[n - 1 :] = 0
    gap = float(1 - values[1] / values[0])
    return Cloud(encoded, centroid, lean, values, vectors[:, 0], gap)


def passage_values(x: Array, reconstruction: Array, c: Cloud) -> dict[str, Value]:
    """The metrics of one passage at one layer."""
    m = c.magnitudes
    n, total = len(m), float(m.sum())
    values = {
        "l0_norm": Value(n),
        "reconstruction_error": number(np.linalg.norm(x - reconstruction)),
        **dict.fromkeys(("l2_norm", "energy", "gini"), NULL),
    }
    if n:
        gini = 2 * float(np.arange(1, n + 1) @ m) / (n * total) - (n + 1) / n
        values |= {
            "l2_norm": number(np.linalg.norm(m)),
            "energy": number(total),
            "gini": number(gini, scale=1),
        }
    margin = c.encoded.margin
    return {
        name: value._replace(margin=min(value.margin, margin))
        for name, value in (values | shape_values(c)).items()
    }


def shape_values(c: Cloud) -> dict[str, Value]:
    names = (
        "sphericity",
        "elongation",
        "shape_class",
        "dimensionality",
        "eigenvalue_entropy",
        "misalignment",
    )
    if c.eigenvalues is None or c.axis is None or c.centroid is None:
        return dict.fromkeys(names, NULL)
    a, b, third = np.sqrt(c.eigenvalues[:3])
    p = c.eigenvalues[c.eigenvalues > 0] / c.eigenvalues.sum()
    values = (
        number(third / a),
        number(b / a),
        shape_class(b / a, third / a),
        number(1 / (p**2).sum()),
        number(-(p * np.log(p)).sum()),
        number(line_angle(c.centroid, c.axis), RADIAN * max(c.lean, 1 / c.gap)),
    )
    return dict(zip(names, values, strict=True))


def shape_class(elongation: float, sphericity: float) -> Value:
    if elongation > 0.9 and sphericity > 0.9:
        name = "Spherical"
    elif elongation > 0.8 and sphericity < 0.6:
        name = "Oblate"
    else:
        name = "Prolate" if elongation < 0.6 and sphericity < 0.6 else "Triaxial"
    edges = [*(elongation - t for t in (0.9, 0.8, 0.6)), *(sphericity - t for t in (0.9, 0.6))]
    return Value(name, margin=float(np.abs(edges).min()))


def angle(u: Array, v: Array) -> float:
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    return math.degrees(2 * math.atan2(np.linalg.norm(u - v), np.linalg.norm(u + v)))


def line_angle(u: Array, v: Array) -> float:
    return min(angle(u, v), angle(u, -v))


def drift(start: Cloud, end: Cloud) -> Value:
    if start.centroid is None or end.centroid is None:
        return NULL
    return number(
        angle(start.centroid, end.centroid),
        RADIAN * max(start.lean, end.lean),
        min(start.encoded.margin, end.encoded.margin),
    )


def twist(start: Cloud, end: Cloud) -> Value:
    if start.axis is None or end.axis is None:
        return NULL
    return number(
        line_angle(start.axis, end.axis),
        RADIAN / min(start.gap, end.gap),
        min(start.encoded.margin, end.encoded.margin),
    )


def entropy(c: Cloud, most: int | None = None) -> Value:
    """Of the `most` strongest features, or of all that are active."""
    m = c.magnitudes if most is None else c.magnitudes[-most:]
    if not len(m):
        return NULL
    p = m / m.sum()
    return number(-(p * np.log(p)).sum(), margin=c.encoded.margin)


def strongest(encoded: Encoded) -> tuple[set[int], float]:
    """The up to ten strongest active features, and how clear it is which they are."""
    f = encoded.f
    n = min(10, int((f > 0).sum()))
    order = np.argsort(-f)
    lead = (f[order[9]] - f[order[10]]) / encoded.unit if n == 10 else math.inf
    return set(order[:n].tolist()), min(encoded.margin, float(lead))


def stability(encoded: Encoded, draws: Sequence[Encoded]) -> Value:
    top, lead = strongest(encoded)
    if not top:
        return NULL
    noisy = [strongest(draw) for draw in draws]
    shares = [len(top & other) / len(top | other) for other, _ in noisy]
    return number(sum(shares) / len(shares), margin=min(lead, *(lead for _, lead in noisy)))


def consistency(second: Encoded, third: Encoded) -> Value:
    norms = np.linalg.norm(second.f) * np.linalg.norm(third.f)
    if not norms:
        return NULL
    return number(second.f @ third.f / norms, margin=min(second.margin, third.margin))


def reconstruction_cosine(second: "Spot", third: "Spot") -> Value:
    if not (len(second.cloud.magnitudes) and len(third.cloud.magnitudes)):
        return NULL
    one, other = second.reconstruction, third.reconstruction
    cosine = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
    margin = min(second.cloud.encoded.margin, third.cloud.encoded.margin)
    return number(cosine, scale=1, margin=margin)


def difference(hall: Value, fact: Value, sign: int) -> Value:
    if hall.value is None or fact.value is None:
        return NULL
    return number(
        sign * (float(hall.value) - float(fact.value)),
        max(hall.scale, fact.scale),
        min(hall.margin, fact.margin),
    )


class Spot(NamedTuple):
    """One passage at one layer."""

    x: Array
    reconstruction: Array
    cloud: Cloud


def record_values(
    layers: Sequence[int],
    spots: Mapping[str, Sequence[Spot]],
    noisy: Mapping[str, Sequence[Encoded]],
) -> dict[str, Value]:
    """Every column of a record, from its passages' spots (one a layer) and features with each draw
    of noise."""
    out: dict[str, Value] = {}
    for passage, here in spots.items():
        for layer, spot in zip(layers, here, strict=True):
            values = passage_values(*spot)
            out |= {f"l{layer}_{passage}_{name}": value for name, value in values.items()}
        clouds = [spot.cloud for spot in here]
        out[f"entropy_{passage}"] = entropy(clouds[0], most=50)
        out[f"entropy_all_{passage}"] = entropy(clouds[0])
        out[f"stability_{passage}"] = stability(clouds[0].encoded, noisy[passage])
        if len(layers) > 2:
            out[f"cross_layer_consistency_{passage}"] = consistency(
                clouds[1].encoded, clouds[2].encoded
            )
            out[f"cross_layer_reconstruction_cosine_{passage}"] = reconstruction_cosine(*here[1:3])
    return out | (contrast_values(out, spots) if "prompt" in spots else {})


def contrast_values(
    values: Mapping[str, Value], spots: Mapping[str, Sequence[Spot]]
) -> dict[str, Value]:
    out = {}
    for passage in ("fact", "hall"):
        ends = spots["prompt"][0].cloud, spots[passage][0].cloud
        out |= {f"centroid_drift_{passage}": drift(*ends), f"axis_twist_{passage}": twist(*ends)}
    known = {**values, **out}
    return out | {
        f"{name}_diff": difference(known[f"{name}_hall"], known[f"{name}_fact"], sign)
        for name, sign in DIFFERENCES.items()
        if f"{name}_fact" in known
    }
