"""What TransformerLens' bridge computes otherwise than Hugging Face is never measured."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge.generalized_components import (
    PositionEmbeddingsAttentionBridge,
)

from bench.alone import decoder_layers, farthest, layer_output, read_alone, texts
from bench.architectures import LAYERS, load_whole, make_architecture
from streamer.errors import UsageError
from streamer.planning.packing import Packing
from support.models import load_model, make_model

ALL = tuple(range(LAYERS))
OTHERWISE = r"bridge does not run the model .* as Hugging Face does.*hook_resid_post.*forward out"


@pytest.fixture(
    scope="module", params=["Cohere", "Falcon 40B, multi_query false", "Falcon RW: ALiBi"]
)
def bridged_otherwise(request, tmp_path_factory) -> tuple[str, Path]:
    name = request.param
    return name, make_architecture(name, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("hook", ["hook_mlp_out", "attn.hook_z", "hook_resid_post"])
def test_a_model_that_the_bridge_runs_otherwise_is_not_read_through_it(bridged_otherwise, hook):
    _, path = bridged_otherwise
    with pytest.raises(UsageError, match=OTHERWISE):
        load_model(path, layers=ALL, hook="blocks.{layer}." + hook, forward="bridge")


def test_between_its_layers_it_is_right(bridged_otherwise):
    name, path = bridged_otherwise
    model = load_model(path, layers=ALL)
    assert model.forward == "native"
    found = model.residuals(Packing(model.sharing, 128).pack_passages(texts()))
    whole = load_whole(name, path)
    places = {"": [(layer, layer_output) for layer in decoder_layers(whole, LAYERS)]}
    assert farthest(found, read_alone(whole, places, texts())[""]) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_bridge_that_lets_positions_stand_still_is_found_in_every_format(
    tmp_path, monkeypatch, dtype
):
    path = make_model(tmp_path, "llama", initializer_range=0.3)
    hook = "blocks.{layer}.hook_mlp_out"
    assert load_model(path, hook=hook, dtype=dtype).forward == "bridge"

    def still(self: Any, angles: tuple[torch.Tensor, torch.Tensor]) -> Any:
        return torch.ones_like(angles[0]), torch.zeros_like(angles[1])

    turning = "_apply_position_embedding_hooks"
    monkeypatch.setattr(PositionEmbeddingsAttentionBridge, turning, still)
    with pytest.raises(UsageError, match=OTHERWISE):
        load_model(path, hook=hook, dtype=dtype)


def test_a_hook_before_all_layers_needs_no_comparison(tmp_path):
    model = load_model(make_model(tmp_path, "llama"), hook="hook_embed", layers=(0,))
    assert model.forward == "bridge"
    one = Packing("none", 1).pack_passages([(7,)])
    assert torch.equal(model.residuals(one)[0, 0], model.embedding.weight[7])
