"""What an SAE's files say of its input and its features is honoured, or refused with a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file, save_file
from transformers import GPTNeoXConfig, OPTConfig

from streamer.computing.load import load_worker
from streamer.computing.model.architecture import read_architecture
from streamer.computing.model.hook_names import is_among
from streamer.config import RunConfig
from streamer.errors import UsageError
from support.models import D_MODEL, D_SAE, make_model, make_sae, save_model

WIDTHS = {"vocab_size": 4096, "hidden_size": D_MODEL, "num_hidden_layers": 3,
          "num_attention_heads": 4}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    neox = GPTNeoXConfig(**WIDTHS, intermediate_size=64)
    opt = OPTConfig(**WIDTHS, ffn_dim=64, word_embed_proj_dim=D_MODEL)
    return {
        "gpt2": make_model(folder, "gpt2"),
        "gemma2": make_model(folder, "gemma2"),
        "llama": make_model(folder, "llama"),
        "neox": save_model(folder / "neox", neox),
        "opt": save_model(folder / "opt", opt),
    }


def names_at(model: Path, hook: str) -> frozenset[str]:
    config = RunConfig(model=str(model), sae="{layer}", layers=(1,), hook=hook)
    return read_architecture(str(model), config).hook_aliases[0]


LAYER = "blocks.{layer}.hook_resid_post"


@pytest.mark.parametrize(
    ("architecture", "hook", "same", "others"),
    [
        ("gpt2", LAYER, ["transformer.h.1", "h.1"], ["transformer.h.2", "transformer.h.1.input"]),
        ("llama", LAYER, ["model.layers.1.output", "layers.1", "model.language_model.layers.1",
                          "model.layers.2.input", "blocks.2.hook_resid_pre"],
         ["model.layers.0", "model.layers.11", "model.layers.1.mlp", "vision_tower.layers.1",
          "model.encoder.layers.1", "layers", "blocks.1.hook_resid_pre"]),
        ("neox", LAYER, ["gpt_neox.layers.1"], ["gpt_neox.layers.0"]),
        ("opt", LAYER, ["model.decoder.layers.1", "decoder.layers.1"], ["model.decoder.layers.2"]),
        ("llama", "blocks.{layer}.hook_resid_pre", ["model.layers.1.input", "model.layers.0"],
         ["model.layers.1"]),
        ("gemma2", "blocks.{layer}.hook_mlp_out",
         ["model.layers.1.post_feedforward_layernorm", "blocks.1.ln2_post.hook_out"],
         ["model.layers.1.mlp"]),
        ("gpt2", "blocks.{layer}.hook_mlp_out", ["transformer.h.1.mlp"], ["transformer.h.1"]),
        ("gpt2", "blocks.{layer}.attn.hook_z", ["transformer.h.1.attn.c_proj.input"],
         ["transformer.h.1.attn.c_proj", "transformer.h.1.attn"]),
    ],
)  # fmt: skip
def test_hugging_faces_names_of_an_activation_are_known(models, architecture, hook, same, others):
    names = names_at(models[architecture], hook)
    assert [name for name in same if not is_among(name, names)] == []
    assert [name for name in others if is_among(name, names)] == []


def load(model: Path, sae: Path, **settings: Any) -> Any:
    return load_worker(RunConfig(model=str(model), sae=str(sae), layers=(1,), **settings), "text")


def test_an_sae_with_hugging_faces_hook_name_is_measured_and_one_a_layer_off_refused(
    tmp_path, models
):
    right = make_sae(tmp_path / "right", 1, hook_name="transformer.h.1")
    off = make_sae(tmp_path / "off", 1, hook_name="transformer.h.2")
    torn = make_sae(tmp_path / "torn", 1, hf_hook_name="transformer.h.2.output")
    assert load(models["gpt2"], right).saes[0].location == str(right)
    for sae in (off, torn):
        with pytest.raises(
            UsageError,
            match=r"transformer\.h\.2.*, and the run reads blocks\.1\.hook_resid_post "
            r"\(Hugging Face: transformer\.h\.1\)",
        ):
            load(models["gpt2"], sae)


def rewritten(sae: Path, **changes: Any) -> Path:
    """`sae` with changes in its configuration; None takes a key out."""
    file = sae / "cfg.json"
    said = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))
    return sae


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize_activations": "expected_average_only_in"}, "fold_activation_norm_scaling"),
        ({"normalize_activations": "covariance_whitening"}, r"whitens.*fold_activation_whitening"),
        ({"architecture": "crosscoder"}, r"'crosscoder', which SAELens does not know.*jumprelu"),
        ({"architecture": "matryoshka_batchtopk"}, "save_inference_model"),
        ({"activation_fn": "tanh-relu"}, r"'tanh-relu'.*without it"),
        ({"activation_fn_str": "topk"}, r"'topk'.*'standard' without it"),
        ({"activation_fn_kwargs": {"k": 4, "signed": True}}, "features with a sign"),
    ],
)
def test_a_configuration_that_saelens_would_pass_over_is_refused(
    tmp_path, models, changes, message
):
    sae = rewritten(make_sae(tmp_path / "sae", 1), **changes)
    with pytest.raises(UsageError, match=message):
        load(models["llama"], sae)


def test_an_older_configuration_is_read_and_an_older_normalisation_refused(tmp_path, models):
    older = {"metadata": None, "hook_point": "blocks.1.hook_resid_post", "prepend_bos": False,
             "hook_point_layer": 1, "activation_fn_str": "relu"}  # fmt: skip
    sae = rewritten(make_sae(tmp_path / "sae", 1), **older)
    worker = load(models["llama"], sae)
    assert worker.bos_id is None
    assert not [note for note in worker.model.notes if "not known here" in note]
    rewritten(sae, normalize_activations=True)
    with pytest.raises(UsageError, match="expected_average_only_in"):
        load(models["llama"], sae)


def test_metadata_beside_the_metadata_count_as_well(tmp_path, models):
    flat = {"metadata": None, "sae_lens_version": "6.0.0", "hook_name": "model.layers.2"}
    sae = rewritten(make_sae(tmp_path / "sae", 1), **flat)
    with pytest.raises(UsageError, match=r"trained on model\.layers\.2"):
        load(models["llama"], sae)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"hook_name_out": "blocks.1.hook_mlp_out"}, r"hook_mlp_out: it is a transcoder"),
        ({"hook_head_index": 3}, r"head 3 of blocks\.1\.hook_resid_post alone"),
    ],
)
def test_metadata_that_make_it_another_thing_are_refused(tmp_path, models, said, message):
    with pytest.raises(UsageError, match=message):
        load(models["llama"], make_sae(tmp_path / "sae", 1, **said))


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig(D_MODEL, D_SAE, k=8)),
        (
            MatryoshkaBatchTopKTrainingSAE,
            MatryoshkaBatchTopKTrainingSAEConfig(D_MODEL, D_SAE, k=8, matryoshka_widths=[16]),
        ),
    ],
)
def test_a_checkpoint_of_the_training_is_refused_and_what_the_sentence_makes_of_it_runs(
    tmp_path, models, kind, config
):
    config.metadata = SAEMetadata(hook_name="blocks.1.hook_resid_post")
    kind(config).save_model(tmp_path / "checkpoint")
    with pytest.raises(UsageError, match=r"checkpoint of the training.*save_inference_model"):
        load(models["llama"], tmp_path / "checkpoint")
    trained = kind.load_from_disk(tmp_path / "checkpoint")
    trained.save_inference_model(tmp_path / "sae")
    assert load(models["llama"], tmp_path / "sae").saes[0].is_plain


@pytest.mark.parametrize("k", [0, D_SAE + 1, 2.5])
def test_more_strongest_features_than_there_are_are_refused(tmp_path, models, k):
    sae = rewritten(make_sae(tmp_path / "sae", 1, "topk"), k=k)
    with pytest.raises(UsageError, match=rf"k = {k} strongest of its {D_SAE} features"):
        load(models["llama"], sae)


@pytest.mark.parametrize("name", ["W_enc", "b_dec"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, models, name):
    file = make_sae(tmp_path / "sae", 1) / "sae_weights.safetensors"
    weights = load_file(file)
    weights[name].view(-1)[3] = float("nan")
    save_file(weights, file)
    with pytest.raises(UsageError, match=f"numbers in {name} that are not finite"):
        load(models["llama"], tmp_path / "sae")


def test_a_feature_that_is_off_for_good_is_no_fault(tmp_path, models):
    file = make_sae(tmp_path / "sae", 1, "jumprelu") / "sae_weights.safetensors"
    weights = load_file(file)
    weights["threshold"][3] = float("inf")
    save_file(weights, file)
    assert load(models["llama"], tmp_path / "sae").saes[0].is_plain


def test_weights_of_another_architecture_are_told_by_name(tmp_path, models):
    sae = rewritten(make_sae(tmp_path / "sae", 1), architecture="jumprelu")
    with pytest.raises(UsageError, match="threshold"):
        load(models["llama"], sae)
