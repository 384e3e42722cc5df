"""The strongest features under noise: by sums where that is what the SAE encodes, for each draw."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from streamer.computing.sae import under_noise
from streamer.computing.sae.layer_sae import LayerSae
from streamer.computing.sae.noise import POOL_VECTORS, NoisePool
from streamer.computing.sae.under_noise import UnderNoise
from streamer.tables.metrics.stability import TOP
from streamer.tables.sparse import Strongest
from support.features import sparse
from support.models import SAES

DRAWS, PASSAGES, D_SAE = 4, 11, 700
CPU = torch.device("cpu")
KINDS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "jumprelu": ("jumprelu", {}, True),
    "jumprelu, decoder's bias not subtracted": ("jumprelu", {"apply_b_dec_to_input": False}, True),
    "standard": ("standard", {}, True),
    "the 32 strongest": ("topk", {"k": 32}, True),
    "fewer than are looked at": ("topk", {"k": TOP - 1}, False),
    "gated": ("gated", {}, False),
    "with a sign": ("abstopk", {"k": 32}, False),
    "normalised": ("standard", {"normalize_activations": "layer_norm"}, False),
}
"""An architecture, its settings, and whether it is affine up to a threshold."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sae_of(kind: str, d_model: int) -> LayerSae:
    """A random SAE, with biases, and thresholds of which none is 0."""
    architecture, settings, _ = KINDS[kind]
    sae_class, config_class, usual = SAES[architecture]
    torch.manual_seed(3)
    sae = sae_class(config_class(d_in=d_model, d_sae=D_SAE, dtype="float64", **usual | settings))
    for name, parameter in sae.named_parameters():
        if name.startswith("b_"):
            torch.nn.init.normal_(parameter, std=0.3)
        elif name == "threshold":
            torch.nn.init.uniform_(parameter, 0.2, 1.0)
    return LayerSae(0, "made up", sae.eval(), None, None, is_centred=False)


def pool_of(d_model: int, **settings: Any) -> NoisePool:
    return NoisePool(d_model, 0.2, 5, CPU, torch.float64, **{"draws": DRAWS} | settings)


def found(sae: LayerSae, pool: NoisePool, x: torch.Tensor, index: torch.Tensor) -> Strongest:
    with torch.inference_mode():
        first = sae.encode(x + pool.noise(x, index))
        return UnderNoise(sae, pool).strongest(x, index, first)


def wanted(sae: LayerSae, x: torch.Tensor, noise: torch.Tensor) -> list[dict[int, float]]:
    """The strongest active features of each passage of x + noise, by magnitude, from all of them,
    sorted."""
    rows = []
    for row in (x + noise).split(1):
        features = sae.encode(row)[0].abs().tolist()
        order = sorted(range(len(features)), key=lambda feature: -features[feature])
        rows.append({feature: features[feature] for feature in order[:TOP] if features[feature]})
    return rows


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("d_model", [24, 600])
@pytest.mark.parametrize("kind", KINDS)
def test_every_draw_has_the_strongest_features_that_the_sae_encodes(
    kind, d_model, scale, monkeypatch
):
    """In few dimensions the pool is not encoded beforehand; and in pieces of four passages."""
    monkeypatch.setattr(under_noise, "AT_ONCE", 4 * D_SAE)
    sae, pool = sae_of(kind, d_model), pool_of(d_model, scale=scale)
    assert UnderNoise(sae, pool).is_affine == KINDS[kind][-1]
    x = (
        torch.randn(PASSAGES, d_model, dtype=torch.float64)
        * torch.logspace(-1, 2, PASSAGES)[:, None]
    )
    index = torch.arange(PASSAGES) * 93 + 90  # the last draws are the first vectors of the pool
    result = found(sae, pool, x, index)
    vectors = torch.randn(POOL_VECTORS, d_model, generator=torch.Generator().manual_seed(5)) * 0.2
    for draw in range(DRAWS):
        noise = vectors[(index + draw) % POOL_VECTORS].double()
        if scale == "relative":
            noise = noise * x.norm(dim=-1, keepdim=True) / d_model**0.5
        for passage, expected in enumerate(wanted(sae, x, noise)):
            values, features = result.values[draw, passage], result.indices[draw, passage]
            got = {f: v for f, v in zip(features.tolist(), values.tolist(), strict=True) if v}
            assert got == pytest.approx(expected, rel=1e-9), (draw, passage)


def test_one_draw_is_that_of_the_pool_at_the_passages_index():
    sae, x, index = (
        sae_of("gated", 24),
        torch.randn(3, 24, dtype=torch.float64),
        torch.tensor([7, 7, 0]),
    )
    one, several = (found(sae, pool_of(24, draws=n), x, index) for n in (1, DRAWS))
    assert (len(one.values), len(several.values)) == (1, DRAWS)
    assert one.values[0].equal(several.values[0])
    assert one.indices[0].equal(several.indices[0])


def test_a_passage_has_the_same_whatever_is_beside_it():
    sae, pool = sae_of("jumprelu", 600), pool_of(600)
    x, index = torch.randn(PASSAGES, 600, dtype=torch.float64), torch.arange(PASSAGES)
    together, alone = found(sae, pool, x, index), found(sae, pool, x[5:6], index[5:6])
    assert alone.indices[:, 0].equal(together.indices[:, 5])
    assert torch.allclose(alone.values[:, 0], together.values[:, 5], rtol=1e-12)


def test_of_equally_strong_features_those_of_the_least_index_come_first():
    features = torch.zeros(2, D_SAE)
    features[0, [600, 5, 40, 650, 7, 300, 8, 99, 100, 101, 102, 103]] = 1.0
    features[0, 400] = 2.0
    features[1, [600, 5]] = torch.tensor([3.0, 4.0])
    dense, by_sorting = Strongest.of(features, TOP), sparse(features).strongest(TOP)
    assert dense.indices[0, 0].tolist() == [400, 5, 7, 8, 40, 99, 100, 101, 102, 103]
    assert dense.values[0].equal(by_sorting.values.float())
    assert dense.indices[0, 0].equal(by_sorting.indices[0])
    assert dense.indices[0, 1, :2].tolist() == [5, 600]


def test_what_is_not_active_is_not_among_the_strongest():
    features = torch.tensor([[-3.0, 0.0, 2.0, -1.0]])
    assert Strongest.of(features, 3).values.tolist() == [[[2, 0, 0]]]


def test_noise_is_faint_below_a_hundredth_of_the_residual_unless_it_grows_with_it():
    x = torch.tensor([[19.0], [21.0]], dtype=torch.float64).expand(2, 24)
    assert pool_of(24).is_faint(x).tolist() == [False, True]
    assert pool_of(24, scale="relative").is_faint(x).tolist() == [False, False]
