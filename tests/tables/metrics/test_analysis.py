"""The metrics on hand-made activations, and what it takes to add one."""

import math

import pytest
import torch

from streamer.computing.load import load_worker
from streamer.config import RunConfig
from streamer.tables import REJECTED, metrics_of
from streamer.tables.metrics import (
    FAMILIES,
    Activations,
    Column,
    Family,
    Layout,
    columns_of,
    compute,
)
from streamer.tables.metrics.activations import LayerActivations
from streamer.tables.metrics.angles import angle, line_angle
from support.features import sparse, under_noise
from support.runs import run_with

PASSAGES = ("prompt", "fact", "hall")
D_MODEL, D_SAE = 6, 12


def layer_of(features: torch.Tensor, W_dec: torch.Tensor, layer: int = 0) -> LayerActivations:
    x = torch.zeros(*features.shape[:2], W_dec.shape[1])
    return LayerActivations(
        layer=layer,
        residual=x,
        reconstruction=x,
        features=sparse(features),
        W_dec=W_dec,
        b_dec=None,
    )


def measured(features: torch.Tensor, W_dec: torch.Tensor | None = None) -> list[dict[str, float]]:
    """A row of metrics by name for each record of `features` [record, passage, d_sae]."""
    if W_dec is None:
        W_dec = torch.randn(features.shape[-1], D_MODEL, generator=torch.Generator().manual_seed(0))
    layers = tuple(layer_of(features, W_dec, layer) for layer in (2, 4, 6))
    passages = PASSAGES[: features.shape[1]]
    layout = Layout((2, 4, 6), passages, (features.shape[-1],) * 3)
    columns = columns_of(FAMILIES, layout)
    table = compute(FAMILIES, columns, Activations(passages, layers, under_noise(features)))
    return [{c.name: v.item() for c, v in zip(columns, row, strict=True)} for row in table]


def active(*magnitudes: float) -> torch.Tensor:
    """One record whose passages all have these first features active."""
    features = torch.zeros(1, 3, D_SAE)
    features[..., : len(magnitudes)] = torch.tensor(magnitudes)
    return features


def test_nothing_active_is_null_except_what_is_known():
    (row,) = measured(active())
    known = {name for name, value in row.items() if not math.isnan(value)}
    assert known == {
        f"l{layer}_{passage}_{metric}"
        for layer in (2, 4, 6)
        for passage in PASSAGES
        for metric in ("l0_norm", "reconstruction_error")
    }
    assert row["l2_prompt_l0_norm"] == 0


def test_one_active_feature_has_a_place_but_no_shape():
    (row,) = measured(active(3.0))
    assert (row["l2_fact_l0_norm"], row["l2_fact_energy"], row["l2_fact_gini"]) == (1, 3, 0)
    assert row["centroid_drift_fact"] == 0
    for metric in ("sphericity", "shape_class", "dimensionality", "misalignment"):
        assert math.isnan(row[f"l2_fact_{metric}"])
    assert math.isnan(row["axis_twist_fact"])


def test_features_of_one_direction_have_a_place_but_no_shape():
    W_dec = torch.randn(1, D_MODEL, generator=torch.Generator().manual_seed(3)).repeat(D_SAE, 1)
    (row,) = measured(active(1.3, 0.7, 2.1), W_dec)
    assert row["l2_fact_l0_norm"] == 3
    assert row["centroid_drift_fact"] == pytest.approx(0, abs=1e-6)
    for metric in ("elongation", "shape_class", "dimensionality", "misalignment"):
        assert math.isnan(row[f"l2_fact_{metric}"])
    assert math.isnan(row["axis_twist_fact"])


def test_few_features_have_exactly_the_rank_they_can_have():
    (two,) = measured(active(1.0, 2.0))
    assert (two["l2_fact_elongation"], two["l2_fact_sphericity"]) == (0, 0)
    assert two["l2_fact_dimensionality"] == pytest.approx(1)
    assert two["l2_fact_shape_class"] == 2  # Prolate
    (three,) = measured(active(1.0, 2.0, 1.5))
    assert three["l2_fact_elongation"] > 0
    assert three["l2_fact_sphericity"] == 0


def test_shapes_of_known_clouds():
    axes = torch.eye(D_MODEL)[:3]
    points = torch.cat([axes, -axes])

    def cloud(*scale: float) -> dict[str, float]:
        W_dec = points * torch.tensor(scale).repeat(2)[:, None]
        return measured(torch.ones(1, 3, 6), W_dec)[0]

    ball = cloud(1, 1, 1)
    assert ball["l2_fact_shape_class"] == 0
    assert ball["l2_fact_dimensionality"] == pytest.approx(3)
    assert ball["l2_fact_eigenvalue_entropy"] == pytest.approx(math.log(3))
    disc = cloud(1, 0.95, 0.5)
    assert (disc["l2_fact_elongation"], disc["l2_fact_sphericity"]) == pytest.approx((0.95, 0.5))
    assert disc["l2_fact_shape_class"] == 1
    assert cloud(1, 0.5, 0.5)["l2_fact_shape_class"] == 2
    assert cloud(1, 0.7, 0.7)["l2_fact_shape_class"] == 3


def test_spectroscopy_by_hand():
    (row,) = measured(active(3.0, 4.0, 1.0))
    assert row["l4_hall_l2_norm"] == pytest.approx(math.sqrt(26))
    assert row["l4_hall_energy"] == 8
    # |3−4| + |3−1| + |4−1| summed both ways, over 2 n Σ m
    assert row["l4_hall_gini"] == pytest.approx(2 * (1 + 2 + 3) / (2 * 3 * 8))
    p = torch.tensor([3.0, 4.0, 1.0]) / 8
    assert row["entropy_hall"] == pytest.approx(-(p * p.log()).sum().item())


def test_more_features_than_dimensions_are_decomposed_in_the_residual_space():
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(2, 3, 40, generator=generator)
    W_dec = torch.randn(40, D_MODEL, generator=generator)
    spread = layer_of(features, W_dec).shape
    w = (features[0, 1] / features[0, 1].sum()).double()
    mean = w @ W_dec.double()
    C = torch.einsum("n,nd,ne->de", w, W_dec.double() - mean, W_dec.double() - mean)
    expected = torch.linalg.eigvalsh(C).flip(0)
    assert torch.allclose(spread.eigenvalues[0, 1, :D_MODEL], expected)
    assert spread.eigenvalues[0, 1, D_MODEL:].abs().sum() == 0


def test_a_dense_passage_changes_nothing_for_a_sparse_one():
    generator = torch.Generator().manual_seed(2)
    sparse, dense = active(1.0, 3.0, 2.0, 0.5), torch.rand(1, 3, D_SAE, generator=generator)
    alone, together = measured(sparse)[0], measured(torch.cat([dense, sparse, dense]))[1]
    assert together == pytest.approx(alone, rel=1e-12, nan_ok=True)


def test_angles_are_exact_where_an_arc_cosine_is_not():
    u = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for degrees in (0.0, 1e-7, 45.0, 90.0, 135.0, 180 - 1e-7, 180.0):
        radians = math.radians(degrees)
        v = torch.tensor([math.cos(radians), math.sin(radians)], dtype=torch.float64) * 3
        assert angle(u, v).item() == pytest.approx(degrees, abs=1e-13, rel=1e-9)
        assert line_angle(u, v).item() == pytest.approx(min(degrees, 180 - degrees), abs=1e-7)
    assert math.isnan(angle(u, 0 * u).item())


def test_differences_are_positive_where_a_hallucination_does_what_is_expected():
    features = active(2.0, 1.0, 1.0, 1.0)
    features[:, 2] = 0
    features[:, 2, 5:11] = 1.0  # the hallucination's features are others, and spread more evenly
    (row,) = measured(features)
    assert row["centroid_drift_fact"] == 0
    assert row["centroid_drift_diff"] == row["centroid_drift_hall"] > 0
    assert row["entropy_diff"] == row["entropy_hall"] - row["entropy_fact"] > 0
    assert row["stability_diff"] == 0


def test_entropy_of_all_goes_on_where_that_of_the_strongest_ends():
    (row,) = measured(torch.ones(1, 3, 80))
    assert row["entropy_fact"] == pytest.approx(math.log(50))
    assert row["entropy_all_fact"] == pytest.approx(math.log(80))
    (few,) = measured(active(3.0, 4.0, 1.0))
    assert few["entropy_all_fact"] == few["entropy_fact"]
    assert (few["entropy_all_diff"], few["entropy_diff"]) == (0, 0)


def two_layers(
    second: torch.Tensor, third: torch.Tensor, *W_decs: torch.Tensor, bias: float = 0.0
) -> dict:
    """The row of a record with these features at the second and third layer, and other decoders."""
    features = (second, second, third)
    layers = tuple(
        LayerActivations(
            layer=layer, residual=torch.zeros(1, 3, D_MODEL), reconstruction=None,
            features=sparse(f), W_dec=W_dec, b_dec=torch.full((D_MODEL,), bias),
        )
        for layer, f, W_dec in zip((2, 4, 6), features, (W_decs[0], *W_decs), strict=True)
    )  # fmt: skip
    layout = Layout((2, 4, 6), PASSAGES, tuple(len(W_dec) for W_dec in (W_decs[0], *W_decs)))
    columns = columns_of(FAMILIES, layout)
    table = compute(FAMILIES, columns, Activations(PASSAGES, layers, under_noise(second)))
    return {c.name: v.item() for c, v in zip(columns, table[0], strict=True)}


def test_layers_of_shuffled_dictionaries_agree_in_what_they_reconstruct_and_not_by_index():
    generator = torch.Generator().manual_seed(4)
    W_dec = torch.randn(D_SAE, D_MODEL, generator=generator)
    second, order = active(3.0, 4.0, 1.0), torch.arange(D_SAE).flip(0)
    row = two_layers(second, second[..., order], W_dec, W_dec[order])
    assert row["cross_layer_consistency_fact"] == 0
    assert row["cross_layer_reconstruction_cosine_fact"] == pytest.approx(1)
    assert row["cross_layer_reconstruction_cosine_diff"] == pytest.approx(0)
    wider = torch.cat([W_dec[order], torch.zeros(5, D_MODEL)])
    third = torch.cat([-second[..., order], torch.zeros(1, 3, 5)], -1).abs()
    row = two_layers(second, third, W_dec, -wider)
    assert row["cross_layer_reconstruction_cosine_hall"] == pytest.approx(-1)
    assert "cross_layer_consistency_fact" not in row  # there is no common index


def test_two_layers_one_of_which_is_silent_have_no_cosine():
    W_dec = torch.randn(D_SAE, D_MODEL, generator=torch.Generator().manual_seed(4))
    third = active(2.0)
    third[:, 1] = 0
    row = two_layers(active(2.0), third, W_dec, W_dec, bias=0.5)
    assert math.isnan(row["cross_layer_reconstruction_cosine_fact"])
    assert math.isnan(row["cross_layer_reconstruction_cosine_diff"])
    assert row["cross_layer_reconstruction_cosine_hall"] == pytest.approx(1)


def test_stability_is_the_mean_over_the_draws():
    features = active(*range(12, 0, -1))
    other = active(
        *([0] * 5), *range(7, 0, -1)
    )  # shares five of the ten strongest, and has two more
    layers = tuple(layer_of(features, torch.eye(D_SAE), layer) for layer in (2, 4, 6))
    columns = columns_of(FAMILIES, Layout((2, 4, 6), PASSAGES, (D_SAE,) * 3))
    noisy = under_noise(features, other, other)
    table = compute(FAMILIES, columns, Activations(PASSAGES, layers, noisy))
    at = [column.name for column in columns].index("stability_hall")
    assert table[0, at].item() == pytest.approx((1 + 2 * 5 / 12) / 3)


def test_columns_follow_from_layers_and_passages():
    three = [column.name for column in columns_of(FAMILIES, Layout((1, 3, 5), PASSAGES, (8, 8, 8)))]
    assert len(three) == len(set(three)) == 3 * 3 * 11 + 4 + 3 + 2 * 3 + 2 * 3 + 7
    assert three[:2] == ["l1_prompt_l0_norm", "l1_prompt_l2_norm"]
    assert three[10:12] == ["l1_prompt_misalignment", "l1_fact_l0_norm"]
    two = [column.name for column in columns_of(FAMILIES, Layout((1, 3), PASSAGES, (8, 8)))]
    assert not [name for name in two if "cross_layer" in name]
    text = [column.name for column in columns_of(FAMILIES, Layout((1,), ("text",), (8,)))]
    assert text[-3:] == ["stability_text", "entropy_text", "entropy_all_text"]
    assert not [name for name in text if "drift" in name or "diff" in name]


def test_a_new_metric_is_a_few_lines_and_a_column(tmp_path):
    def peaks(activations, _):
        found = activations.layers[0].reduce(lambda group: group.values[:, 0])
        return {
            f"peak_{passage}": found[:, index] for index, passage in enumerate(activations.passages)
        }

    peak = Family(
        "peak", lambda layout: [Column(f"peak_{passage}") for passage in layout.passages], peaks
    )
    worker = load_worker(RunConfig(), "contrast", [metrics_of((*FAMILIES, peak)), REJECTED])
    run, _ = run_with(worker, out=tmp_path / "RUN", limit=5)
    table = run.table("metrics")
    assert table.column_names[-3:] == ["peak_prompt", "peak_fact", "peak_hall"]
    for row in table.to_pylist():
        assert row["peak_fact"] <= row["l1_fact_l2_norm"] <= row["l1_fact_energy"]
