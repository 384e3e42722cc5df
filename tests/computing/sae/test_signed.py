"""SAEs whose features have a sign: active is ≠ 0, and what counts is the magnitude."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from streamer.computing.load import load_worker
from streamer.config import RunConfig
from streamer.tables.metrics import FAMILIES, Activations, Layout, columns_of, compute
from streamer.tables.metrics.activations import LayerActivations
from support.agreement import disagreements
from support.features import sparse, under_noise
from support.measured import ROUNDING, measured, named, tokenized
from support.models import make_model, make_saes
from support.reference import Spot, Value, cloud, consistency, difference, record_values, stability
from support.reference_model import Array, Encoded

LAYERS = (1, 3, 5)
ALL = ("prompt", "fact", "hall")
D_MODEL, D_SAE = 16, 64


def doubled(f: Array) -> Encoded:
    """A feature with a sign as two without: one for each direction."""
    return Encoded(np.concatenate([np.maximum(f, 0), np.maximum(-f, 0)]))


def expected_of(x: Array, f: Array, noisy: Array, W_dec: Array) -> dict[str, Value]:
    """Every column of a record with residuals x and signed features f, [layer, passage, _]."""
    both = np.concatenate([W_dec, -W_dec])
    spots = {
        passage: [
            Spot(x[layer, p], f[layer, p] @ W_dec, cloud(doubled(f[layer, p]), both))
            for layer in range(len(LAYERS))
        ]
        for p, passage in enumerate(ALL)
    }
    found = record_values(LAYERS, spots, {name: [doubled(noisy[p])] for p, name in enumerate(ALL)})
    for p, name in enumerate(ALL):  # these two compare features, whichever way they point
        found[f"stability_{name}"] = stability(Encoded(abs(f[0, p])), [Encoded(abs(noisy[p]))])
        found[f"cross_layer_consistency_{name}"] = consistency(Encoded(f[1, p]), Encoded(f[2, p]))
    for metric in ("stability", "cross_layer_consistency"):
        hall, fact = found[f"{metric}_hall"], found[f"{metric}_fact"]
        found[f"{metric}_diff"] = difference(hall, fact, -1)
    return found


@pytest.mark.parametrize("active", [[1], [2], [3], [0, 1, 2, 3, 7, D_MODEL, D_MODEL + 1, D_SAE]])
def test_every_metric_is_of_magnitudes_in_the_direction_of_the_sign(active):
    random = np.random.default_rng(0)
    W_dec = random.normal(size=(D_SAE, D_MODEL))
    x = random.normal(size=(len(LAYERS), 8, len(ALL), D_MODEL))
    f = np.zeros((len(LAYERS) + 1, 8, len(ALL), D_SAE))
    for place in np.ndindex(f.shape[:-1]):
        on = random.permutation(D_SAE)[: random.choice(active)]
        f[place][on] = random.choice([-1, 1], len(on)) * (random.exponential(size=len(on)) + 0.1)
    layers = [
        LayerActivations(
            layer=layer,
            residual=torch.from_numpy(x[place]),
            reconstruction=torch.from_numpy(f[place] @ W_dec),
            features=sparse(torch.from_numpy(f[place]), signed=True),
            W_dec=torch.from_numpy(W_dec),
            b_dec=None,
        )
        for place, layer in enumerate(LAYERS)
    ]
    noisy = under_noise(torch.from_numpy(f[-1]).abs())
    columns = columns_of(FAMILIES, Layout(LAYERS, ALL, (D_SAE,) * len(LAYERS)))
    rows = compute(FAMILIES, columns, Activations(ALL, tuple(layers), noisy)).tolist()
    expected = [expected_of(x[:, r], f[:-1, r], f[-1, r], W_dec) for r in range(8)]
    found = [named(columns, row) for row in rows]
    assert disagreements(expected, found, ROUNDING["float64"], undecided=0) == []


def test_a_feature_that_points_the_other_way_counts_with_the_other_sign(active=5):
    f = torch.zeros(1, D_SAE, dtype=torch.float64)
    f[0, :active] = torch.arange(1, active + 1) * torch.tensor([1, -1, 1, -1, 1])
    there, back = sparse(f, signed=True), sparse(-f, signed=True)
    assert there.indices.tolist() == back.indices.tolist()
    assert there.dot(back).item() == pytest.approx(-float(f.square().sum()))
    assert there.dot(there).item() == pytest.approx(float(f.square().sum()))


@pytest.mark.parametrize("batch", [1, 3])
def test_an_abs_topk_sae_is_measured_with_its_negative_features(tmp_path, batch):
    path = make_model(tmp_path, "llama", initializer_range=0.3)
    sae = make_saes(tmp_path, (0, 1, 2), architecture="abstopk")
    worker = load_worker(RunConfig(model=str(path), sae=sae, layers=(0, 1, 2)), "text")
    texts = [("The sky is blue",), ("Paris lies on the Seine",), ("No one knows",)]
    rows = measured(worker, texts, batch)
    model = AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float64).eval()
    for row, record in zip(rows, tokenized(worker, texts), strict=True):
        with torch.no_grad():
            hidden = model.model(torch.tensor([record.tokens[0].tolist()]),
                                 output_hidden_states=True).hidden_states  # fmt: skip
        x = hidden[2][0, -1]
        said = load_file(tmp_path / "sae_1" / "sae_weights.safetensors")
        w = {name: weight.double() for name, weight in said.items()}
        z = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        f = torch.where(z.abs() >= z.abs().sort().values[-8], z, 0)
        assert (f < 0).any()
        error = (x - f @ w["W_dec"] - w["b_dec"]).norm()
        assert row["l1_text_l0_norm"] == 8
        assert row["l1_text_energy"] == pytest.approx(float(f.abs().sum()), rel=1e-5)
        assert row["l1_text_l2_norm"] == pytest.approx(float(f.norm()), rel=1e-5)
        assert row["l1_text_reconstruction_error"] == pytest.approx(float(error), rel=1e-5)
