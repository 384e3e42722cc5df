"""SAEs of a model that TransformerLens had changed are given the same activations, or refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BloomConfig, GPTNeoXConfig, OPTConfig

from streamer.computing.load import load_worker
from streamer.config import RunConfig
from streamer.errors import UsageError
from support.measured import measured, tokenized
from support.models import D_MODEL, make_model, make_sae, save_model
from support.reference_model import Array

CENTRED = {"center_writing_weights": True}
TEXTS = (("The sky is blue",), ("Paris lies on the Seine, they say, and not on the Rhine.",))
OF_GPT2 = {
    "blocks.{layer}.hook_resid_pre": "h.{layer}.input",
    "blocks.{layer}.hook_resid_post": "h.{layer}",
    "blocks.{layer}.hook_resid_mid": "h.{layer}.ln_2.input",
    "blocks.{layer}.hook_attn_out": "h.{layer}.attn",
    "blocks.{layer}.hook_mlp_out": "h.{layer}.mlp",
    "blocks.{layer}.mlp.hook_post": "h.{layer}.mlp.c_proj.input",
}
"""Hooks, and where Hugging Face's module has the same."""


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    """One whose residuals have a mean, as those of the real one."""
    path = make_model(tmp_path_factory.mktemp("model"), "gpt2", initializer_range=0.3)
    weights = load_file(path / "model.safetensors")
    weights["transformer.wte.weight"] += 2.0
    for layer in range(3):
        weights[f"transformer.h.{layer}.mlp.c_proj.bias"] -= 0.7
        weights[f"transformer.h.{layer}.attn.c_proj.bias"] += torch.rand(D_MODEL)
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    return path


def centred_model(path: Path) -> Any:
    """GPT-2 in float64, its writing weights centred as TransformerLens does it."""
    model = AutoModelForCausalLM.from_pretrained(
        str(path), dtype=torch.float64, attn_implementation="eager"
    )
    with torch.no_grad():
        for name, weight in model.transformer.named_parameters():
            if name.startswith(("wte", "wpe")) or ".c_proj." in name:
                weight.sub_(weight.mean(-1, keepdim=True))
    return model.eval()


def reads(model: Any, where: str, ids: list[int]) -> Array:
    """What the module of that name gives at the last token, or is given (`.input`)."""
    kept: list[torch.Tensor] = []
    module = model.transformer.get_submodule(where.removesuffix(".input"))

    def keep(_: Any, given: tuple[torch.Tensor, ...], given_back: Any) -> None:
        out = given_back[0] if isinstance(given_back, tuple) else given_back
        kept.append((given[0] if where.endswith(".input") else out)[0, -1])

    handle = module.register_forward_hook(keep)
    with torch.no_grad():
        model(torch.tensor([ids]))
    handle.remove()
    found: Array = kept[0].numpy()
    return found


def expected_of(sae: Path, x: Array) -> dict[str, float]:
    """What a standard SAE makes of x, in float64."""
    said = {
        name: w.double().numpy() for name, w in load_file(sae / "sae_weights.safetensors").items()
    }
    f = np.maximum((x - said["b_dec"]) @ said["W_enc"] + said["b_enc"], 0)
    back = f @ said["W_dec"] + said["b_dec"]
    return {
        "l0_norm": float((f > 0).sum()),
        "energy": float(f.sum()),
        "reconstruction_error": float(np.linalg.norm(x - back)),
    }


def loaded(model: Path, sae: Path, **settings: Any) -> Any:
    return load_worker(RunConfig(model=str(model), sae=str(sae), layers=(1,), **settings), "text")


@pytest.mark.parametrize(
    ("hook", "forward"),
    [(hook, "bridge") for hook in OF_GPT2]
    + [(f"blocks.{{layer}}.hook_resid_{end}", "native") for end in ("pre", "post")],
)
def test_centred_weights_are_honoured_as_if_the_model_had_them(tmp_path, gpt2, hook, forward):
    width = {"d_model": 4 * D_MODEL} if "mlp.hook" in hook else {}
    sae = make_sae(tmp_path / "sae", 1, hook_name=hook.format(layer=1), **width,
                   model_from_pretrained_kwargs=CENTRED)  # fmt: skip
    worker = loaded(gpt2, sae, hook=hook, forward=forward)
    model = centred_model(gpt2)
    rows = measured(worker, TEXTS, 2)
    for row, record in zip(rows, tokenized(worker, TEXTS), strict=True):
        x = reads(model, OF_GPT2[hook].format(layer=1), record.tokens[0].tolist())
        for name, value in expected_of(sae, x).items():
            assert row[f"l1_text_{name}"] == pytest.approx(value, rel=1e-5)
    assert worker.saes[0].is_centred == ("mlp.hook" not in hook)


def test_only_the_sae_that_asks_for_it_is_given_centred_residuals(tmp_path, gpt2):
    for layer, said in ((0, {}), (1, {"model_from_pretrained_kwargs": CENTRED})):
        make_sae(tmp_path / f"sae_{layer}", layer, **said)
    config = RunConfig(model=str(gpt2), sae=str(tmp_path / "sae_{layer}"), layers=(0, 1))
    worker = load_worker(config, "text")
    (row,) = measured(worker, TEXTS[:1], 1)
    ids = tokenized(worker, TEXTS[:1])[0].tokens[0].tolist()
    plain = AutoModelForCausalLM.from_pretrained(str(gpt2), dtype=torch.float64).eval()
    for layer, model in ((0, plain), (1, centred_model(gpt2))):
        expected = expected_of(tmp_path / f"sae_{layer}", reads(model, f"h.{layer}", ids))
        assert row[f"l{layer}_text_energy"] == pytest.approx(expected["energy"], rel=1e-5)
    assert any("layer 1: the residual is read less its mean" in note for note in worker.model.notes)


WIDTHS = {"vocab_size": 4096, "hidden_size": D_MODEL}
SEES_ITS_MEAN = {
    "a norm without a mean": lambda folder: make_model(folder, "llama"),
    "an embedding that is normed": lambda folder: save_model(
        folder / "bloom", BloomConfig(**WIDTHS, n_layer=3, n_head=4)
    ),
    "a norm behind the layer": lambda folder: save_model(
        folder / "opt",
        OPTConfig(**WIDTHS, num_hidden_layers=3, num_attention_heads=4, ffn_dim=64,
                  word_embed_proj_dim=D_MODEL, do_layer_norm_before=False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", SEES_ITS_MEAN)
def test_centred_weights_are_refused_where_they_change_more_than_the_mean(tmp_path, model):
    sae = make_sae(tmp_path / "sae", 1, model_from_pretrained_kwargs=CENTRED)
    with pytest.raises(UsageError, match=r"center_writing_weights = True.*centred"):
        loaded(SEES_ITS_MEAN[model](tmp_path), sae)


def test_a_parallel_architecture_with_layer_norms_is_centred(tmp_path):
    config = GPTNeoXConfig(
        **WIDTHS, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
    )
    sae = make_sae(tmp_path / "sae", 1, model_from_pretrained_kwargs=CENTRED)
    assert loaded(save_model(tmp_path / "neox", config), sae).saes[0].is_centred


@pytest.mark.parametrize(
    "said",
    [
        {"center_writing_weights": False, "fold_ln": False},
        {"fold_ln": True, "center_unembed": True, "fold_value_biases": True},
        {"device_map": "auto", "n_devices": 2, "revision": "main", "torch_dtype": None},
    ],
)
def test_what_changes_nothing_at_the_hook_is_not_spoken_of(tmp_path, gpt2, said):
    sae = make_sae(tmp_path / "sae", 1, model_name="gpt2", model_from_pretrained_kwargs=said)
    worker = loaded(gpt2, sae)
    assert not worker.saes[0].is_centred
    assert worker.model.notes == []


@pytest.mark.parametrize(
    ("hook", "said", "message"),
    [
        ("attn.hook_z", {"fold_value_biases": True}, r"may change blocks\.1\.attn\.hook_z"),
        ("ln1.hook_normalized", {"fold_ln": True}, "may change"),
        ("hook_resid_post", {"rope_scaling": {"factor": 4}}, "rope_scaling.*is not known here"),
        ("hook_resid_post", {"checkpoint_index": 3}, "checkpoint_index = 3.*allow-other-model"),
    ],
)
def test_what_changes_the_activation_or_may_is_refused(tmp_path, gpt2, hook, said, message):
    sae = make_sae(
        tmp_path / "sae", 1, hook_name=f"blocks.1.{hook}", model_from_pretrained_kwargs=said
    )
    with pytest.raises(UsageError, match=message):
        loaded(gpt2, sae, hook=f"blocks.{{layer}}.{hook}")


def test_the_precision_and_the_revision_of_the_model_are_noted(tmp_path, gpt2):
    said = {"torch_dtype": "torch.bfloat16", "revision": "step3000"}
    sae = make_sae(tmp_path / "sae", 1, model_from_pretrained_kwargs=said)
    notes = json.dumps(loaded(gpt2, sae).model.notes)
    assert "trained on residuals of a model with torch_dtype = 'torch.bfloat16'" in notes
    assert "revision = 'step3000'; which one the local directory holds is not known" in notes
