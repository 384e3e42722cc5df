"""Active features without the zeros between them: the same numbers, in as little memory."""

import math

import pytest
import torch
from torch import Tensor

from streamer.tables.metrics import FAMILIES, Activations, columns_of, compute
from streamer.tables.metrics.activations import LayerActivations
from streamer.tables.sparse import SparseFeatures, alike
from streamer.tables.table import Layout
from support.features import sparse, under_noise

D_MODEL, D_SAE = 24, 4096
DENSE = 3000
LAYERS = (2, 4, 6)
PASSAGES = ("prompt", "fact", "hall")


def features_with(*counts: int, seed: int = 0) -> Tensor:
    """[passage, d_sae], so many active in each."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.zeros(len(counts), D_SAE)
    for passage, n in enumerate(counts):
        chosen = torch.randperm(D_SAE, generator=generator)[:n]
        features[passage, chosen] = torch.rand(n, generator=generator) + 0.1
    return features


def table_of(layers: list[Tensor], noisy: Tensor) -> Tensor:
    """All metrics of records whose passages have these features, a layer each."""
    generator = torch.Generator().manual_seed(1)
    W_dec = torch.randn(D_SAE, D_MODEL, generator=generator)
    residual = torch.ones(len(noisy) // len(PASSAGES), len(PASSAGES), D_MODEL)
    found = tuple(
        LayerActivations(
            layer=layer, residual=residual, reconstruction=None, features=sparse(features),
            W_dec=W_dec, b_dec=torch.zeros(D_MODEL),
        )
        for layer, features in zip(LAYERS, layers, strict=True)
    )  # fmt: skip
    columns = columns_of(FAMILIES, Layout(LAYERS, PASSAGES, (D_SAE,) * len(LAYERS)))
    return compute(FAMILIES, columns, Activations(PASSAGES, found, under_noise(noisy)))


def test_a_dense_passage_beside_others_has_its_numbers_and_they_have_theirs():
    counts = (DENSE, 20, 90, 0, 1, 95, 88, 2, 5, 60, 61, 62)
    *layers, noisy = (features_with(*counts, seed=seed) for seed in range(4))
    together = table_of(layers, noisy)
    for record in range(len(together)):
        own = slice(3 * record, 3 * record + 3)
        (alone,) = table_of([features[own] for features in layers], noisy[own])
        assert torch.allclose(together[record], alone, rtol=1e-6, atol=1e-9, equal_nan=True)


def numbers_held(features: SparseFeatures) -> int:
    own = (features.values, features.indices, features.offsets)
    groups = [(group.values, group.indices, group.counts) for group in features.groups]
    return sum(tensor.numel() for tensors in (own, *groups) for tensor in tensors)


def test_a_dense_passage_makes_no_other_hold_more():
    ordinary = [80 + passage % 20 for passage in range(99)]
    without = numbers_held(sparse(features_with(*ordinary)))
    beside = numbers_held(sparse(features_with(*ordinary, DENSE)))
    assert beside - without == pytest.approx(4 * DENSE, abs=10)
    assert without < 5 * sum(ordinary)


def test_features_are_laid_out_as_the_docstring_draws_it():
    features = torch.tensor([[0, 2, 0, 0, 5, 0], [0] * 6, [1, 0, 0, 4, 0, 3]]).double()
    found = sparse(features)
    assert found.values.tolist() == [5, 2, 4, 3, 1]
    assert found.indices.tolist() == [4, 1, 3, 5, 0]
    assert found.offsets.tolist() == [0, 2, 2, 5]
    strongest = found.strongest(2)
    assert strongest.values.tolist() == [[5, 2], [0, 0], [4, 3]]
    assert strongest.indices[2].tolist() == [3, 5]


def test_equally_strong_features_are_in_the_order_of_their_indices_whatever_is_beside_them():
    features = torch.zeros(2, D_SAE)
    features[0, 7:4000:3] = 1.0
    features[1, ::40] = 1.0
    beside, alone = sparse(features), sparse(features[1:])
    assert alone.indices.tolist() == list(range(0, D_SAE, 40))
    assert beside.indices[beside.offsets[1] :].tolist() == alone.indices.tolist()


def test_negative_features_are_not_active():
    found = sparse(torch.tensor([[-1.0, 3.0, 0.0, -2.0]]))
    assert (found.values.tolist(), found.indices.tolist()) == ([3], [1])


def test_a_product_of_two_layers_is_that_of_the_dense_features():
    one, other = features_with(90, 0, DENSE, 5, 0), features_with(95, 7, 80, 0, 0, seed=1)
    products = sparse(one).dot(sparse(other))
    expected = (one.double() * other.double()).sum(-1)
    assert torch.allclose(products[[0, 2, 3]], expected[[0, 2, 3]], rtol=1e-12)
    assert products[[1, 4]].isnan().all()
    nothing = sparse(one).dot(sparse(torch.zeros_like(one)))
    assert nothing.tolist() == pytest.approx([0, math.nan, 0, 0, math.nan], nan_ok=True)


def test_where_nothing_is_active_there_is_no_group_and_nothing_is_known():
    found = sparse(torch.zeros(3, D_SAE))
    assert found.groups == ()
    assert found.reduce(lambda group: group.values.sum(-1)).isnan().all()
    assert found.strongest(10).values.tolist() == [[0] * 10] * 3


def test_groups_are_of_like_counts_and_split_into_pieces_that_hold_no_more_than_asked():
    (groups,) = alike([[90, 3000, 95, 0]], torch.device("cpu"))
    assert [(one.passages.tolist(), one.width) for one in groups] == [([0, 2], 95), ([1], 3000)]
    ((three,),) = alike([[90, 84, 87]], torch.device("cpu"))
    pieces = [(piece.passages.tolist(), piece.width) for piece in three.split(200)]
    assert pieces == [([1, 2], 87), ([0], 90)]
    assert [piece.width for piece in three.split(1)] == [84, 87, 90]
