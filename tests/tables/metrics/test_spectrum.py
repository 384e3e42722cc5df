"""The spectrum is that of LAPACK, and the first axis an eigenvector of the largest eigenvalue."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from streamer.device.traits import TRAITS
from streamer.tables.metrics.spectrum import spectrum
from support.features import shape_of

DTYPES = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gram(matrices: int, k: int, rank: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Random positive semidefinite matrices of a rank."""
    generator = torch.Generator().manual_seed(seed)
    M = torch.randn(matrices, k, rank, generator=generator, dtype=torch.float64)
    return (M @ M.mT).to(dtype)


def with_values(values: list[float], first: Tensor | None = None) -> Tensor:
    """A matrix with these eigenvalues; `first` is the vector of the first one."""
    generator = torch.Generator().manual_seed(1)
    M = torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    if first is not None:
        M[:, 0] = first
    Q, _ = torch.linalg.qr(M)
    return Q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ Q.mT


def assert_agrees(A: Tensor, tolerance: float) -> None:
    values, vector = spectrum(A)
    expected = torch.linalg.eigvalsh(A.double())
    largest = expected[:, -1]
    assert ((values - expected).abs() <= tolerance * largest[:, None]).all()
    assert torch.allclose(vector.norm(dim=-1), torch.ones(len(A), dtype=A.dtype))
    apart = (A.double() @ vector.double()[..., None])[..., 0] - largest[:, None] * vector
    assert (apart.norm(dim=-1) <= 100 * tolerance * largest).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 3, 5, 40, 150])
def test_values_and_vector_are_lapacks(dtype, k):
    for rank in {1, max(1, k // 2), k, k + 5}:
        A = gram(20, k, rank, dtype)
        assert_agrees(A, DTYPES[dtype])
        values, vectors = torch.linalg.eigh(A.double())
        if k > 1:
            clear = values[:, -1] - values[:, -2] > 0.05 * values[:, -1]
            cosine = (vectors[..., -1] * spectrum(A)[1]).sum(-1).abs()
            assert (1 - cosine[clear] < 100 * DTYPES[dtype]).all()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_what_is_measured_in_is_no_matter(scale):
    A = gram(10, 8, 8, torch.float64)
    (values, vector), (scaled, same) = spectrum(A), spectrum(scale * A)
    assert ((scaled - scale * values).abs() <= 1e-13 * scaled[:, -1:]).all()
    assert torch.allclose((vector * same).sum(-1).abs(), torch.ones(10, dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 2, 3, 20])
def test_of_nothing_all_values_are_zero_and_the_vector_is_some(k):
    values, vector = spectrum(torch.zeros(3, k, k, dtype=torch.float64))
    assert values.equal(torch.zeros(3, k, dtype=torch.float64))
    assert torch.allclose(vector.norm(dim=-1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("values", [[2, 2], [2, 2, 1], [3, 3, 3], [5, 5 * (1 - 1e-15), 1, 0]])
def test_of_values_that_are_equal_the_vector_is_one_of_their_plane(values):
    assert_agrees(with_values([float(value) for value in values])[None], 1e-12)


@pytest.mark.parametrize("k", [2, 3, 30])
@pytest.mark.parametrize("second", [0.0, 0.5, 0.99, 1 - 1e-6])
def test_a_vector_that_the_iteration_does_not_start_towards_is_found(k, second):
    """Only rounding has a share in it at first."""
    start = torch.arange(1, k + 1, dtype=torch.float64).square().sin()
    across = torch.zeros(k, dtype=torch.float64)
    across[0], across[1] = start[1], -start[0]
    across /= across.norm()
    A = with_values([1.0, *[second] * (k - 1)], across)[None]
    _, vector = spectrum(A)
    assert abs(float(vector[0] @ across)) > 1 - 1e-9


def test_zeros_that_pad_a_matrix_add_zero_values_and_change_nothing():
    A = gram(10, 6, 6, torch.float64)
    padded = torch.zeros(10, 9, 9, dtype=torch.float64)
    padded[:, :6, :6] = A
    (values, vector), (more, longer) = spectrum(A), spectrum(padded)
    assert torch.allclose(more[:, 3:], values, rtol=1e-12)
    assert (more[:, :3].abs() < 1e-12 * values[:, -1:]).all()
    assert (longer[:, 6:].abs() < 1e-12).all()
    assert torch.allclose((longer[:, :6] * vector).sum(-1).abs(), torch.ones_like(vector[:, 0]))


def points(counts: list[int], d_model: int, d_sae: int) -> tuple[Tensor, Tensor]:
    """Features [passage, d_sae], so many active a passage, and decoder directions."""
    generator = torch.Generator().manual_seed(0)
    features = torch.zeros(len(counts), d_sae, dtype=torch.float64)
    for passage, n in enumerate(counts):
        chosen = torch.randperm(d_sae, generator=generator)[:n]
        features[passage, chosen] = torch.rand(n, generator=generator, dtype=torch.float64) + 0.1
    W_dec = torch.randn(d_sae, d_model, generator=generator, dtype=torch.float64)
    return features, W_dec


def assert_shapes_are_those_of_their_points(counts: list[int], d_model: int) -> None:
    """Of the weighted covariance, written out."""
    features, W_dec = points(counts, d_model, 300)
    shape = shape_of(features, W_dec)
    for passage, n in enumerate(counts):
        on = features[passage] > 0
        r, f = W_dec[on], features[passage, on]
        w = f / f.sum()
        centroid = (w[:, None] * r).sum(0)
        C = (w[:, None, None] * (r - centroid)[:, :, None] * (r - centroid)[:, None]).sum(0)
        values, vectors = torch.linalg.eigh(C)
        rank = min(n - 1, d_model)
        found = shape.eigenvalues[passage]
        expected = values.flip(0)[:rank].clamp(min=0)
        assert torch.allclose(shape.centroid[passage], centroid, rtol=1e-12)
        assert torch.allclose(found[:rank], expected, rtol=1e-9, atol=1e-12 * float(values[-1]))
        assert (found[rank:] == 0).all()
        assert abs(float(shape.axis[passage] @ vectors[:, -1])) > 1 - 1e-9


@pytest.mark.parametrize("d_model", [3, 8, 64])
def test_a_shape_is_that_of_its_points_be_they_fewer_or_more_than_dimensions(d_model):
    counts = [2, 3, 4, d_model - 1, d_model, d_model + 1, 2 * d_model, 100, 100, 250]
    assert_shapes_are_those_of_their_points([max(2, n) for n in counts], d_model)


def test_a_shape_is_the_same_in_groups_of_any_size(monkeypatch):
    features, W_dec = points([5, 40, 6, 41, 7, 200, 5], 32, 300)
    together = shape_of(features, W_dec)
    monkeypatch.setitem(TRAITS, "cpu", replace(TRAITS["cpu"], gathered=1))
    apart = shape_of(features, W_dec)
    assert torch.allclose(together.eigenvalues, apart.eigenvalues, rtol=1e-9, atol=1e-13)
    cosines = (together.axis * apart.axis).sum(-1).abs()
    assert torch.allclose(cosines, torch.ones_like(cosines))


def test_of_no_point_nothing_is_known_and_of_one_there_is_no_axis():
    features, W_dec = points([0, 1, 5], 16, 300)
    shape = shape_of(features, W_dec)
    assert shape.centroid[0].isnan().all()
    assert torch.allclose(shape.centroid[1], W_dec[features[1] > 0][0])
    assert shape.axis[:2].isnan().all()
    assert (shape.eigenvalues[:2] == 0).all()
    assert shape.axis[2].isfinite().all()


def test_points_in_one_place_have_no_axis():
    features, W_dec = points([20], 16, 300)
    shape = shape_of(features, W_dec[:1].expand(300, -1).contiguous())
    assert shape.axis.isnan().all()
    assert (shape.eigenvalues == 0).all()


def test_another_thread_computes_with_as_many_cores_after_a_shape_as_before():
    """Shapes are decomposed in threads that share nothing out; others still do."""
    from concurrent.futures import ThreadPoolExecutor

    from streamer.device.pool import host_pool

    def threads_of_a_new_thread() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    torch.set_num_threads(3)
    try:
        features, W_dec = points([5], 16, 300)
        shape_of(features, W_dec)
        assert set(host_pool().map(lambda _: torch.get_num_threads(), range(9))) == {1}
        assert threads_of_a_new_thread() == 3
    finally:
        torch.set_num_threads(1)
