"""The native forward and the bridge read the same residuals, and the native one reads tries."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaModel

from streamer.computing.load import load_worker
from streamer.computing.model.language_model import LanguageModel
from streamer.computing.model.native import NativeForward
from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.planning.packing import Packing
from support.models import D_MODEL, N_LAYERS, load_model, make_model, make_saes
from support.runs import run_with

SLIDING = {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 16}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": ("gemma2", {"attn_logit_softcapping": 2.0}),  # a window of 16 in every other layer
    "gpt2": ("gpt2", {}),
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {}),  # a window of 16 in every layer
    "qwen2": ("qwen2", {}),
    "qwen2 sliding": ("qwen2", SLIDING),
}
CLOSE = {"float32": 2e-6, "float64": 1e-9}
POST, PRE = "blocks.{layer}.hook_resid_post", "blocks.{layer}.hook_resid_pre"
Load = Callable[..., LanguageModel]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def path_of(tmp_path_factory) -> Callable[[str], Path]:
    """Models whose attention is far from even, so that masks and positions matter."""

    @functools.cache
    def path(name: str) -> Path:
        architecture, changes = MODELS[name]
        folder = tmp_path_factory.mktemp("model")
        return make_model(folder, architecture, initializer_range=0.3, **changes)

    return path


@pytest.fixture(scope="module")
def load(path_of) -> Load:
    @functools.cache
    def loaded(name: str, **settings: Any) -> LanguageModel:
        return load_model(path_of(name), **settings)

    return loaded


def passages() -> list[list[int]]:
    """Of 1 to 60 tokens, some longer than the window, with beginnings in common."""
    generator = torch.Generator().manual_seed(1)

    def some(n: int) -> list[int]:
        return torch.randint(5, 4000, (n,), generator=generator).tolist()

    stem = some(30)
    return [stem, stem + some(5), stem + some(9), stem[:7] + some(40), some(3), some(60), some(1)]


def read(model: LanguageModel, sharing: Any = None, length: int = 128) -> Tensor:
    return model.residuals(Packing(sharing or model.sharing, length).pack_passages(passages()))


def farthest(one: Tensor, other: Tensor) -> float:
    """How far residuals are apart, relative to their norm."""
    assert one.shape == other.shape
    apart = (one.double() - other.double()).norm(dim=-1) / other.double().norm(dim=-1)
    return float(apart.max())


COMPARED = [
    *((name, POST, "float32") for name in MODELS),
    *((name, PRE, "float32") for name in ("gemma2", "gpt2", "llama")),
    *((name, POST, "float64") for name in ("gemma2", "gpt2", "qwen2 sliding")),
]


@pytest.mark.parametrize(("name", "hook", "dtype"), COMPARED)
def test_native_and_bridge_read_the_same(load, name, hook, dtype):
    native = load(name, hook=hook, dtype=dtype, forward="native")
    bridge = load(name, hook=hook, dtype=dtype, forward="bridge")
    assert (native.forward, bridge.forward) == ("native", "bridge")
    found = read(native)
    assert found.shape == (N_LAYERS, len(passages()), D_MODEL)
    assert found.dtype == getattr(torch, dtype)
    assert farthest(found, read(bridge)) < CLOSE[dtype]


@pytest.mark.parametrize("name", MODELS)
def test_native_takes_tries_and_a_passage_is_the_same_packed_and_alone(load, name):
    model = load(name, hook=POST, dtype="float32", forward="native")
    assert model.sharing == "trie"
    assert [note for note in model.notes if "tokenizer.json" not in note] == []
    alone = torch.cat(
        [model.residuals(Packing("none", 1).pack_passages([ids])) for ids in passages()], dim=1
    )
    for sharing, length in (("trie", 16), ("trie", 1000), ("prefix", 64), ("none", 64)):
        assert farthest(read(model, sharing, length), alone) < CLOSE["float32"]


def test_the_input_of_a_layer_is_the_output_of_the_one_before(load):
    before, behind = (
        load("gpt2", hook=hook, dtype="float32", forward="native") for hook in (PRE, POST)
    )
    assert read(before)[1:].equal(read(behind)[:-1])


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "llama"])
def test_native_is_what_is_taken_if_nothing_is_said(load, name):
    assert load(name).forward == "native"


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "llama tied"])
def test_native_holds_no_layer_behind_the_last_hook_and_no_head(load, name):
    whole = load(name, forward="native")._run.module
    half = load(name, layers=(0, 1), forward="native")._run.module
    layers = [name for name, _ in half.named_modules() if name.endswith((".0", ".1", ".2"))]
    assert [name.rsplit(".")[-1] for name in layers] == ["0", "1"]
    assert not [name for name, _ in half.named_modules() if "head" in name]
    of_a_layer = sum(one.numel() for one in whole.get_submodule(layers[0]).parameters())
    sizes = [sum(one.numel() for one in module.parameters()) for module in (whole, half)]
    assert sizes[0] - sizes[1] == of_a_layer


def without(path: Path, *parts: str) -> Path:
    """The checkpoint, its weights whose names contain one of `parts` taken out of the file."""
    file = path / "model.safetensors"
    kept = {k: v for k, v in load_file(file).items() if not any(part in k for part in parts)}
    save_file(kept, file, metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2", "llama"])
def test_weights_behind_the_last_hook_are_never_read(tmp_path, architecture):
    path = make_model(tmp_path, architecture)
    expected = read(load_model(path, layers=(0, 1), forward="bridge"))
    without(path, ".2.", "lm_head")
    model = load_model(path, layers=(0, 1), forward="native")
    assert model.notes == []
    assert farthest(read(model), expected) < CLOSE["float32"]


@pytest.mark.parametrize("forward", ["native", "auto", "bridge"])
def test_a_model_whose_files_lack_weights_is_refused(tmp_path, forward):
    """Hugging Face would make some up."""
    path = without(make_model(tmp_path, "llama"), ".1.mlp.down_proj")
    with pytest.raises(UsageError, match=r"layers\.1\.mlp\.down_proj"):
        load_model(path, forward=forward)


@pytest.mark.parametrize("hook", ["hook_mlp_out", "ln2.hook_in", "hook_resid_mid", "attn.hook_z"])
def test_a_hook_inside_a_layer_is_the_bridges(load, path_of, hook):
    hook = "blocks.{layer}." + hook
    model = load("llama", hook=hook)
    assert (model.forward, model.sharing, model.notes) == ("bridge", "prefix", [])
    with pytest.raises(UsageError, match=r"between decoder layers only, and .*\. Leave forward"):
        load_model(path_of("llama"), hook=hook, forward="native")


def ignoring_the_mask(monkeypatch) -> None:
    def causal(self, depths, ends):
        at = torch.arange(ends.shape[1])
        return self._as_attention_takes_it((at[:, None] >= at).expand(len(ends), -1, -1))

    monkeypatch.setattr(NativeForward, "_mask", causal)


def ignoring_positions(monkeypatch) -> None:
    forward = LlamaModel.forward

    def counting(self, *args, position_ids=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", counting)


def refusing_the_mask(monkeypatch) -> None:
    def refuse(self, depths, ends):
        raise ValueError("a mask of four dimensions?\nno.")

    monkeypatch.setattr(NativeForward, "_mask", refuse)


@pytest.mark.parametrize("size", [0.02, 0.3], ids=["as initialised", "as if trained"])
@pytest.mark.parametrize("breaks", [ignoring_the_mask, ignoring_positions, refusing_the_mask])
def test_a_model_that_takes_no_tries_is_found_out_and_right(tmp_path, monkeypatch, breaks, size):
    path = make_model(tmp_path, "llama", initializer_range=size)
    expected = read(load_model(path, forward="bridge"))
    breaks(monkeypatch)
    model = load_model(path, forward="native")
    assert model.sharing == "prefix"
    (note,) = model.notes
    assert note.startswith("no tries: ")
    assert "\n" not in note
    assert farthest(read(model), expected) < CLOSE["float32"]


def test_a_window_over_positions_of_a_row_allows_no_tries(tmp_path):
    """Though it is longer than what is tried at load."""
    model = load_model(make_model(tmp_path, "gptneo"), forward="native")
    assert model.sharing == "prefix"
    assert "way of their own" in " ".join(model.notes)
    stem = list(range(90))
    long = [stem + [200 + n] * 60 for n in range(3)]
    alone = torch.cat(
        [model.residuals(Packing("none", 1).pack_passages([ids])) for ids in long], dim=1
    )
    found = {
        sharing: model.residuals(Packing(sharing, 1000).pack_passages(long))
        for sharing in ("prefix", "trie")
    }
    assert farthest(found["prefix"], alone) < CLOSE["float32"]
    assert farthest(found["trie"], alone) > 100 * CLOSE["float32"]  # or it might take tries


@pytest.mark.parametrize("forward", ["native", "bridge"])
def test_no_passage_is_so_long_that_it_changes_the_others(tmp_path, forward):
    """Longrope turns positions farther in a batch that has a long passage."""
    even = 40
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "original_max_position_embeddings": even,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
    }
    model = load_model(
        make_model(tmp_path, "llama", initializer_range=0.3, rope_parameters=rope), forward=forward
    )
    assert model.context == even
    (note,) = model.notes
    assert "at most 40 tokens, not 256" in note

    def read_beside_one_of(length: int) -> Tensor:
        passages = [range(7, 37), range(3, 3 + length)]
        rows = Packing("prefix", 1000).pack_passages([tuple(ids) for ids in passages])
        return model.residuals(rows)[:, :1]

    alone = model.residuals(Packing("none", 1).pack_passages([tuple(range(7, 37))]))
    assert farthest(read_beside_one_of(even), alone) < CLOSE["float32"]
    assert farthest(read_beside_one_of(even + 1), alone) > 100 * CLOSE["float32"]


def test_the_manifest_says_what_runs(tmp_path, path_of):
    sae = make_saes(tmp_path, (1,))
    for forward, sharing, other in (
        ("native", "trie", {}),
        ("bridge", "prefix", {"bf16": True}),
        ("native", "none", {"dtype": "float64", "sharing": "none"}),
    ):
        settings = {"model": str(path_of("llama")), "sae": sae, "layers": (1,), "device": "cpu"}
        config = RunConfig(**settings, forward=forward, **other)
        worker = load_worker(config, "contrast")
        run, _ = run_with(worker, out=tmp_path / f"{forward} {sharing}", limit=2)
        said = run.manifest["model"]
        assert said["forward"] == forward
        assert said["sharing"] == sharing
        assert said["dtype"] == other.get("dtype", "float32")
        assert said["autocast"] == ("bfloat16" if other.get("bf16") else None)
