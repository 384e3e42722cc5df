"""Models and SAEs: which load, which are refused and how, and how far a forward pass runs."""

import json
import shutil
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from streamer import embedded
from streamer.batches import PackedTokens
from streamer.computing.load import load_worker
from streamer.computing.model.native import NativeForward
from streamer.config import RunConfig
from streamer.device.traits import TRAITS
from streamer.errors import UsageError
from streamer.planning.packing import Packing
from support.models import D_MODEL, D_SAE, SAES, load_model, make_model, make_sae, make_saes
from support.runs import run_with

LAYERS = (0, 1, 2)
ARCHITECTURES = ("gpt2", "llama", "qwen2")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), "llama")


def packed(passages: list[list[int]], sharing: Any = "trie") -> PackedTokens:
    return Packing(sharing, 64).pack_passages([tuple(ids) for ids in passages])


def config_of(model, sae: str, **settings) -> RunConfig:
    return RunConfig(model=str(model), sae=sae, **{"layers": LAYERS, **settings})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_residual_is_hugging_faces_at_the_last_real_token(tmp_path, architecture):
    path = make_model(tmp_path, architecture)
    worker = load_worker(config_of(path, make_saes(tmp_path, LAYERS)), "text")
    plain = AutoModelForCausalLM.from_pretrained(str(path), attn_implementation="eager")
    rows = [torch.randint(5, 4000, (length,)) for length in (3, 17, 9)]
    residual = worker.model.residuals(packed([row.tolist() for row in rows]))
    assert residual.shape == (3, 3, D_MODEL)
    for place, row in enumerate(rows):
        with torch.no_grad():
            hidden = plain(row[None], output_hidden_states=True).hidden_states
        # hidden_states[l + 1] is the residual behind layer l, but normed behind the last
        for layer in LAYERS[:-1]:
            expected = hidden[layer + 1][0, -1]
            assert torch.dist(residual[layer, place], expected) < 2e-6 * expected.norm()


def test_nothing_behind_the_last_hook_runs(tmp_path, llama):
    worker = load_worker(config_of(llama, make_saes(tmp_path, (0, 1)), layers=(0, 1)), "text")
    ran: list[str] = []
    hf = worker.model._run.module
    for name, module in hf.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    worker.model.residuals(packed([[5, 6, 7]]))
    assert any(".1." in name for name in ran)
    assert not [name for name in ran if "layers.2" in name or "lm_head" in name]
    assert not [name for name in ran if name.endswith("model.norm")]


@pytest.mark.parametrize("architecture", SAES)
def test_every_kind_of_sae_runs(tmp_path, llama, architecture):
    template = make_saes(tmp_path, LAYERS, architecture=architecture)
    worker = load_worker(config_of(llama, template), "contrast")
    run, _ = run_with(worker, out=tmp_path / "RUN", limit=5)
    counts = run.table("metrics")["l1_fact_l0_norm"].to_pylist()
    assert all(0 < count <= D_SAE for count in counts)
    if architecture == "topk":
        assert max(counts) <= 8


def test_an_sae_that_normalises_its_input_keeps_its_scales_apart(tmp_path, llama):

    template = make_saes(tmp_path, (1,))
    cfg = tmp_path / "sae_1" / "cfg.json"
    cfg.write_text(
        json.dumps(json.loads(cfg.read_text()) | {"normalize_activations": "layer_norm"})
    )
    worker = load_worker(config_of(llama, template, layers=(1,)), "text")
    x = torch.randn(2, D_MODEL) * torch.tensor([[1.0], [100.0]])
    together, _ = worker.saes[0].encode_decode(x)
    alone, decoded = worker.saes[0].encode_decode(x[1:])
    assert torch.allclose(together[1:], alone, rtol=1e-5)
    assert decoded.norm() > 50


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"hook_name": "blocks.1.hook_resid_pre"},
            "blocks.1.hook_resid_pre.*blocks.1.hook_resid_post",
        ),
        ({"d_model": 24}, "reads 24 dimensions.*has 32"),
        ({"model_name": "gpt2-small"}, "trained on gpt2-small, and the model is llama"),
    ],
)
def test_an_sae_of_something_else_is_refused_naming_both(tmp_path, llama, metadata, message):
    make_sae(tmp_path / "sae_1", 1, **metadata)
    with pytest.raises(UsageError, match=message):
        load_worker(config_of(llama, str(tmp_path / "sae_{layer}"), layers=(1,)), "text")


@pytest.mark.parametrize("file", ["sae_weights.safetensors", "cfg.json"])
def test_a_damaged_sae_is_told_by_name(tmp_path, llama, file):
    template = make_saes(tmp_path, (1,))
    (tmp_path / "sae_1" / file).write_bytes(b"{}")
    with pytest.raises(UsageError, match=r"cannot load the SAE .*sae_1"):
        load_worker(config_of(llama, template, layers=(1,)), "text")


def test_a_damaged_model_is_told_by_name(tmp_path, llama):
    shutil.copytree(llama, tmp_path / "llama")
    (tmp_path / "llama" / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(UsageError, match=r"cannot load the model .*llama: model.safetensors"):
        load_worker(config_of(tmp_path / "llama", make_saes(tmp_path, (1,)), layers=(1,)), "text")


def test_an_alias_of_the_model_is_the_model(tmp_path):
    path = make_model(tmp_path, "gpt2")
    make_sae(tmp_path / "sae_1", 1, model_name="gpt2-small")
    load_worker(config_of(path, str(tmp_path / "sae_{layer}"), layers=(1,)), "text")


def test_bos_is_what_the_saes_want(tmp_path, llama):
    for layer, wish in ((0, True), (1, False)):
        make_sae(tmp_path / f"sae_{layer}", layer, prepend_bos=wish)
    template = str(tmp_path / "sae_{layer}")
    assert load_worker(config_of(llama, template, layers=(0,)), "text").bos_id is not None
    assert load_worker(config_of(llama, template, layers=(1,)), "text").bos_id is None
    with pytest.raises(UsageError, match="disagree about prepend_bos"):
        load_worker(config_of(llama, template, layers=(0, 1)), "text")
    load_worker(config_of(llama, template, layers=(0, 1), prepend_bos=True), "text")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (1, 7)}, "layer 7 is not in the model .* 0 to 2"),
        ({"hook": "blocks.{layer}.hook_nonsense"}, "has no hook 'blocks.0.hook_nonsense'"),
        ({"hook": "blocks.{layer}.{x}"}, r"has no hook 'blocks.0.\{x\}'"),
        ({"device": "tpu0"}, "device 'tpu0' is unknown"),
    ],
)
def test_what_the_model_lacks_is_told(tmp_path, llama, settings, message):
    template = make_saes(tmp_path, (0, 1, 2, 7))
    with pytest.raises(UsageError, match=message):
        load_worker(config_of(llama, template, **settings), "text")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_tokenizer_may_know_more_tokens_than_the_model_embeds(tmp_path, architecture):
    """The check at load asks for none of those: on CUDA, that would end the use of the device."""
    path = make_model(tmp_path, architecture, vocab_size=40)
    asked = []
    look_up = torch.nn.functional.embedding

    def seen(ids, weight, *args, **kwargs):
        if len(weight) == 40:
            asked.append(int(ids.max()))
        return look_up(ids, weight, *args, **kwargs)

    with patch.object(torch.nn.functional, "embedding", seen):
        model = load_model(path)
    assert len(model.tokenizer) > 40
    assert model.sharing == "trie"
    assert 20 < max(asked) < 40


def test_a_record_of_tokens_that_the_model_does_not_embed_is_rejected_alone(tmp_path):
    path = make_model(tmp_path, "llama", vocab_size=400)
    template = make_saes(tmp_path, LAYERS)
    texts = ["a e i", "the colour of quartz", "o u"]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    worker = load_worker(config_of(path, template), "text")
    call = NativeForward.__call__
    with patch.object(NativeForward, "__call__", autospec=True, side_effect=call) as runs:
        run, _ = run_with(worker, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN")
    assert all(int(call.args[2].max()) < 400 for call in runs.call_args_list)  # none reached it
    (rejected,) = run.table("rejected").to_pylist()
    assert rejected["row"] == 1
    unknown = worker.model.tokenizer(texts[1], add_special_tokens=False)["input_ids"]
    token = worker.model.tokenizer.convert_ids_to_tokens(max(unknown))
    assert rejected["reason"] == (
        f"token {token!r} ({max(unknown)}) of the vocabulary has no embedding: it is not among the "
        f"400 that the model embeds"
    )
    assert run.table("metrics")["row"].to_pylist() == [0, 2]


@pytest.mark.parametrize("forward", ["native", "bridge"])
def test_weights_are_read_straight_onto_an_accelerator(tmp_path, llama, monkeypatch, forward):
    """Not into the host's memory first, of which there may be less."""
    asked = []
    whole = PreTrainedModel.from_pretrained.__func__

    def look(cls, *args, **kwargs):
        asked.append(kwargs["device_map"])
        return whole(cls, *args, **kwargs)

    load_model(llama, forward=forward)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(look))
    plain = load_model(llama, forward=forward)
    monkeypatch.setitem(TRAITS, "cpu", replace(TRAITS["cpu"], is_host=False))
    straight = load_model(llama, forward=forward)
    assert asked == [None, {"": torch.device("cpu")}]
    rows = packed([[5, 6, 7]], "none")
    assert straight.residuals(rows).equal(plain.residuals(rows))
    assert not any(hasattr(one, "_hf_hook") for one in straight._run.module.modules())


def test_pickled_weights_are_not_loaded_unless_trusted(tmp_path, llama):
    model = tmp_path / "llama"
    shutil.copytree(llama, model)
    state = AutoModelForCausalLM.from_pretrained(str(llama)).state_dict()
    (model / "model.safetensors").unlink()
    torch.save(state, model / "pytorch_model.bin")
    template = make_saes(tmp_path, (1,))
    with pytest.raises(UsageError, match="cannot load the model"):
        load_worker(config_of(model, template, layers=(1,)), "text")
    load_worker(config_of(model, template, layers=(1,), trust_remote_code=True), "text")


def test_a_model_that_overflows_rejects_its_records_and_goes_on(tmp_path, llama):
    worker = load_worker(config_of(llama, make_saes(tmp_path, LAYERS)), "contrast")
    poisoned = worker.model._run.module.get_input_embeddings().weight
    token = worker.model.tokenizer("Frankenstein", add_special_tokens=False)["input_ids"][0]
    with torch.inference_mode():
        poisoned[token] = float("inf")
    good = '{"prompt": "The sky is", "fact": "blue", "hallucination": "green"}\n'
    (tmp_path / "in.jsonl").write_text(good + good.replace("The sky", "Frankenstein") + good)
    run, _ = run_with(worker, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN")
    assert run.table("metrics")["row"].to_pylist() == [0, 2]
    (rejection,) = run.table("rejected").to_pylist()
    assert "not finite" in rejection["reason"]


def test_a_passage_that_overflows_in_a_batch_is_run_again_by_itself(tmp_path, llama, monkeypatch):
    worker = load_worker(config_of(llama, make_saes(tmp_path, LAYERS)), "contrast")
    plain, _ = run_with(worker, out=tmp_path / "PLAIN", limit=3)
    residuals = worker.model.residuals

    def overflowing(rows, on_device=None):
        x = residuals(rows).clone()
        if x.shape[1] == 9:
            x[:, 4, 0] = float("inf")  # a passage of the second record
        return x

    monkeypatch.setattr(worker.model, "residuals", overflowing)
    run, summary = run_with(worker, out=tmp_path / "RUN", limit=3)
    assert summary.counters.session.reruns_in_float32 == 1
    assert run.table("rejected").num_rows == 0
    for name in ("l1_fact_energy", "l1_fact_dimensionality", "l2_hall_reconstruction_error"):
        expected = plain.table("metrics")[name].to_pylist()
        assert run.table("metrics")[name].to_pylist() == pytest.approx(expected, rel=1e-5)


def test_the_embedded_parts_are_known_by_their_name():
    assert embedded.MODEL.is_dir()
    assert load_worker(RunConfig(), "text").model.identity.aliases == {embedded.NAME}


def test_an_sae_of_attention_heads_reads_them_side_by_side(tmp_path, llama):
    hook = "blocks.{layer}.attn.hook_z"
    make_sae(tmp_path / "sae_1", 1, hook_name=hook.format(layer=1))
    cfg = tmp_path / "sae_1" / "cfg.json"
    cfg.write_text(json.dumps(json.loads(cfg.read_text()) | {"reshape_activations": "hook_z"}))
    template = str(tmp_path / "sae_{layer}")
    worker = load_worker(config_of(llama, template, layers=(1,), hook=hook), "text")
    heads = worker.model.residuals(packed([[5, 6, 7], [8, 9]], "prefix"))[0]
    assert heads.shape == (2, D_MODEL)
    together, _ = worker.saes[0].encode_decode(heads)
    alone, _ = worker.saes[0].encode_decode(heads[1:])
    assert torch.allclose(together[1:], alone, rtol=1e-5)
