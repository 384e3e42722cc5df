"""Numbers where few or many features are active, for one passage, and for one and two layers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from streamer.computing.load import load_worker
from streamer.config import Kind, RunConfig
from streamer.embedded import LAYERS, MODEL, SAES
from streamer.records import PASSAGES
from streamer.tables.metrics import FAMILIES, Activations, Layout, columns_of, compute
from streamer.tables.metrics.activations import LayerActivations
from support.agreement import disagreements
from support.features import sparse, under_noise
from support.measured import (
    ROUNDING,
    Measured,
    Texts,
    contrast_texts,
    measured,
    named,
)
from support.reference import (
    Spot,
    Value,
    cloud,
    record_values,
)
from support.reference_model import Array, Encoded
from support.reference_rows import Reference

SOME = contrast_texts()[::8]
ALL = PASSAGES["contrast"]
SHAPE = {"sphericity", "elongation", "shape_class", "dimensionality", "eigenvalue_entropy",
         "misalignment"}  # fmt: skip
D_MODEL, D_SAE = 16, 64


def both(
    texts: Sequence[Texts], kind: Kind = "contrast", dtype: str = "float64", **settings: Any
) -> tuple[list[dict[str, Value]], list[Measured]]:
    """What the reference says of `texts`, and what streamer says."""
    given = {"layers": LAYERS, "sae": SAES, "seed": 0} | settings
    draws = given.get("noise_draws", RunConfig().noise_draws)
    relative = given.get("noise_std") if given.get("noise_scale") == "relative" else None
    reference = Reference(
        MODEL, given["sae"], given["layers"], PASSAGES[kind],
        seed=given["seed"], draws=draws, relative=relative,
    )  # fmt: skip
    expected = [reference.record(passages) for passages in texts]
    worker = load_worker(RunConfig(device="cpu", dtype=dtype, **given), kind)
    return expected, measured(worker, texts, 16)


def with_threshold(threshold: float, out: Path) -> str:
    """The embedded SAEs with another threshold, as a template."""
    for layer in LAYERS:
        source, copy = Path(SAES.format(layer=layer)), out / f"layer_{layer}"
        weights = load_file(source / "sae_weights.safetensors")
        weights["threshold"] = np.full_like(weights["threshold"], threshold)
        copy.mkdir()
        save_file(weights, copy / "sae_weights.safetensors")
        (copy / "cfg.json").write_bytes((source / "cfg.json").read_bytes())
    return str(out / "layer_{layer}")


def counts(rows: Sequence[Measured]) -> list[object]:
    return [row[f"l1_{passage}_l0_norm"] for row in rows for passage in ALL]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both answers by precision where only strong features, often none to three, are active."""
    sae = with_threshold(5, tmp_path_factory.mktemp("few"))
    return {dtype: both(SOME, dtype=dtype, sae=sae) for dtype in ROUNDING}


@pytest.mark.parametrize("dtype", ROUNDING)
def test_passages_with_few_active_features_agree(few, dtype):
    expected, found = few[dtype]
    assert {0, 1, 2, 3} <= set(counts(found))
    assert disagreements(expected, found, ROUNDING[dtype]) == []


@pytest.mark.parametrize("dtype", ROUNDING)
def test_passages_with_more_active_features_than_dimensions_agree(tmp_path, dtype):
    """At the threshold 0 more features are near it, in 1.3% of values too near for float32."""
    expected, found = both(SOME, dtype=dtype, sae=with_threshold(0, tmp_path))
    assert min(counts(found)) > 128
    assert disagreements(expected, found, ROUNDING[dtype], undecided=0.05) == []


def test_a_prompt_with_no_active_feature_gives_nulls(few):
    _, found = few["float64"]
    silent = [row for row in found if row["l1_prompt_l0_norm"] == 0]
    assert silent
    for row in silent:
        known = {name for name, value in row.items() if value is not None and "prompt" in name}
        at_first = {name for name in known if not name.startswith(("l3", "l5", "cross_layer"))}
        assert at_first == {"l1_prompt_l0_norm", "l1_prompt_reconstruction_error"}
        for name in ("centroid_drift", "axis_twist"):
            assert {row[f"{name}_{end}"] for end in ("fact", "hall", "diff")} == {None}


def test_one_active_feature_has_a_place_but_no_shape(few):
    _, found = few["float64"]
    single = [row for row in found if row["l1_fact_l0_norm"] == 1]
    assert single
    for row in single:
        null = {name for name in row if name.startswith("l1_fact") and row[name] is None}
        assert null == {f"l1_fact_{metric}" for metric in SHAPE}
        assert row["axis_twist_fact"] is None
        assert (row["centroid_drift_fact"] is None) == (row["l1_prompt_l0_norm"] == 0)


@pytest.mark.parametrize("dtype", ROUNDING)
def test_texts_agree_and_have_the_columns_of_one_passage(dtype):
    long = " ".join(prompt for prompt, _, _ in contrast_texts()[:15])
    expected, found = both([(long,), *(texts[1:2] for texts in SOME)], "text", dtype)
    assert disagreements(expected, found, ROUNDING[dtype]) == []
    per_record = {name for name in found[0] if not name.startswith("l")}
    assert per_record == {
        f"{metric}_text"
        for metric in (
            "entropy", "entropy_all", "stability", "cross_layer_consistency",
            "cross_layer_reconstruction_cosine",
        )
    }  # fmt: skip


@pytest.mark.parametrize("layers", [(3,), (1, 5)])
def test_fewer_than_three_layers_agree_and_lack_only_what_needs_three(layers):
    expected, found = both(SOME, layers=layers)
    assert disagreements(expected, found, ROUNDING["float64"]) == []
    per_record = {name for name in found[0] if not name.startswith("l")}
    assert per_record == {
        *(
            f"{metric}_{passage}"
            for metric in ("entropy", "entropy_all", "stability")
            for passage in ALL
        ),
        *(
            f"{metric}_{end}"
            for metric in ("centroid_drift", "axis_twist")
            for end in ("fact", "hall")
        ),
        *(
            f"{metric}_diff"
            for metric in ("entropy", "entropy_all", "stability", "centroid_drift", "axis_twist")
        ),
    }


def test_noise_follows_from_the_seed():
    expected, found = both(SOME, seed=1)
    assert disagreements(expected, found, ROUNDING["float64"]) == []
    other, _ = both(SOME[:1], seed=0)
    stabilities = {f"stability_{end}" for end in (*ALL, "diff")}
    lines = disagreements(other, found[:1], ROUNDING["float64"])
    assert lines
    assert {line.split()[2].strip(",:") for line in lines} <= stabilities


@pytest.mark.parametrize(
    "settings",
    [{"noise_draws": 1}, {"noise_draws": 3, "noise_scale": "relative", "noise_std": 0.2}],
    ids=str,
)
def test_stability_is_the_mean_over_draws_of_noise_of_the_size_that_was_asked_for(settings):
    expected, found = both(SOME, **settings)
    assert disagreements(expected, found, ROUNDING["float64"]) == []
    usual, _ = both(SOME)
    assert disagreements(usual, found, ROUNDING["float64"])  # it is not what others are


@pytest.mark.parametrize("active", [[1], [2], [3], [0, 1, 2, 3, 7, D_MODEL, D_MODEL + 1, D_SAE]])
def test_made_up_activations_agree(active):
    """Records whose passages have so many active features each, mixed at random."""
    random = np.random.default_rng(0)
    W_dec = random.normal(size=(D_SAE, D_MODEL))
    x = random.normal(size=(len(LAYERS), 8, len(ALL), D_MODEL))
    f = np.zeros((len(LAYERS) + 2, 8, len(ALL), D_SAE))
    for place in np.ndindex(f.shape[:-1]):
        on = random.permutation(D_SAE)[: random.choice(active)]
        f[place][on] = random.exponential(size=len(on)) + 0.1
    features, noisy = f[: len(LAYERS)], f[len(LAYERS) :]
    columns = columns_of(FAMILIES, Layout(LAYERS, ALL, (D_SAE,) * len(LAYERS)))
    layers = [on_layer(*parts, W_dec) for parts in zip(LAYERS, x, features, strict=True)]
    activations = Activations(ALL, tuple(layers), under_noise(*torch.from_numpy(noisy)))
    found = [named(columns, row) for row in compute(FAMILIES, columns, activations).tolist()]
    expected = [
        record_values(
            LAYERS,
            {
                passage: [
                    Spot(at[row, p], of[row, p] @ W_dec, cloud(Encoded(of[row, p]), W_dec))
                    for at, of in zip(x, features, strict=True)
                ]
                for p, passage in enumerate(ALL)
            },
            {p: [Encoded(draw[row, i]) for draw in noisy] for i, p in enumerate(ALL)},
        )
        for row in range(8)
    ]
    assert disagreements(expected, found, ROUNDING["float64"], undecided=0) == []


def on_layer(layer: int, x: Array, f: Array, W_dec: Array) -> LayerActivations:
    return LayerActivations(
        layer=layer,
        residual=torch.from_numpy(x),
        reconstruction=torch.from_numpy(f @ W_dec),
        features=sparse(torch.from_numpy(f)),
        W_dec=torch.from_numpy(W_dec),
        b_dec=None,
    )
