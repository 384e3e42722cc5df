"""Eigenvalues and the first eigenvector of many small symmetric matrices.

The vector comes from the value, by inverse iteration, which is less than half the work of all
vectors. On a CPU the matrices are shared out among threads that have one core each: sharing out a
matrix this small costs more than it saves, by far when the cores are busy otherwise.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Float
from torch import Tensor

LARGE = 512
"""From this side on, a matrix is worth all cores."""
SOLVES = 3
"""Of inverse iteration. One multiplies the error by about 1e-13 over the relative gap between the
first two eigenvalues (in float64)."""


def spectrum(
    symmetric: Float[Tensor, "matrix k k"],
) -> tuple[Float[Tensor, "matrix k"], Float[Tensor, "matrix k"]]:
    """Eigenvalues, smallest first, and the eigenvector of the largest, of either sign.

    The matrices are positive semidefinite. Where the largest eigenvalue is 0, or appears twice, the
    vector is some vector.
    """
    if symmetric.device.type != "cpu" or symmetric.shape[-1] >= LARGE:
        return _spectrum(symmetric)
    parts = list(_threads().map(_spectrum, symmetric.chunk(_cores())))
    return torch.cat([values for values, _ in parts]), torch.cat([first for _, first in parts])


def _spectrum(A: Float[Tensor, "matrix k k"]) -> tuple[Tensor, Tensor]:
    k = A.shape[-1]
    with torch.inference_mode():
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


def _cores() -> int:
    return max(1, torch.get_num_threads())


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """One for each core, made when first needed."""
    return ThreadPoolExecutor(
        os.cpu_count(), "streamer-eigen", initializer=torch.set_num_threads, initargs=(1,)
    )
