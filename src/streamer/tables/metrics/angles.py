"""Angles in degrees, exact near 0, 90 and 180 where an arc cosine is not (Kahan 2006, §12)."""

import torch
from jaxtyping import Float
from torch import Tensor


def angle(u: Float[Tensor, "*batch d"], v: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """Between two directions, 0 to 180; NaN if either is NaN or zero."""
    u = u / u.norm(dim=-1, keepdim=True)
    v = v / v.norm(dim=-1, keepdim=True)
    return torch.rad2deg(2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1)))


def line_angle(
    u: Float[Tensor, "*batch d"], v: Float[Tensor, "*batch d"]
) -> Float[Tensor, "*batch"]:
    """Between two lines, which have no sign: 0 to 90."""
    between = angle(u, v)
    return torch.minimum(between, 180 - between)
