"""Eigenvalues and the first eigenvector of many small symmetric matrices."""

import torch
from jaxtyping import Float
from torch import Tensor

SOLVES = 3
"""Of inverse iteration. One multiplies the error by about 1e-13 over the relative gap between the
first two eigenvalues (in float64)."""


def spectrum(
    A: Float[Tensor, "matrix k k"],
) -> tuple[Float[Tensor, "matrix k"], Float[Tensor, "matrix k"]]:
    """Eigenvalues, smallest first, and the eigenvector of the largest, of either sign.

    The matrices are positive semidefinite. The vector comes from the value, by inverse iteration,
    which is less than half the work of all vectors. Where the largest eigenvalue is 0, or appears
    twice, it is some vector.
    """
    k = A.shape[-1]
    values = torch.linalg.eigvalsh(A)
    largest = values[:, -1]
    # just above the largest, where A − shift is negative definite and nearly singular
    shift = largest * (1 + 16 * k * torch.finfo(A.dtype).eps) + (largest <= 0)
    factor, _ = torch.linalg.cholesky_ex(torch.diag_embed(shift[:, None].expand(-1, k)) - A)
    start = torch.arange(1, k + 1, dtype=A.dtype, device=A.device).square().sin()
    vector = start[None, :, None].expand(len(A), -1, -1)
    for _ in range(SOLVES):
        vector = torch.cholesky_solve(vector, factor)
        vector = vector / vector.norm(dim=1, keepdim=True)
    return values, vector[..., 0]
