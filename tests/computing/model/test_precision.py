"""Shorter formats: close where they run, float32 where they overflow."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from streamer.computing.load import load_worker
from streamer.computing.model import load_check, precision
from streamer.computing.model.language_model import LanguageModel
from streamer.computing.model.precision import in_float32, with_short_weights
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.planning.packing import Packing
from streamer.results.run import Run
from support.models import load_model, make_model, make_saes
from support.runs import run_with

LAYERS = (0, 1, 2)
LIMIT = 12
MEASURED = [f"l1_{passage}_{what}" for passage in ("prompt", "fact") for what in ("energy", "gini")]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def load(tmp_path_factory) -> Callable[..., Worker]:
    """Workers of one llama and its SAEs."""
    folder = tmp_path_factory.mktemp("llama")
    path = make_model(folder, "llama", initializer_range=0.2)
    template = make_saes(folder, LAYERS)

    def loaded(**settings: Any) -> Worker:
        config = RunConfig(model=str(path), sae=template, layers=LAYERS, device="cpu", **settings)
        return load_worker(config, "contrast")

    return loaded


@pytest.fixture(scope="module")
def plain(load, tmp_path_factory) -> Run:
    """The run in float32."""
    return run_with(load(), out=tmp_path_factory.mktemp("plain") / "RUN", limit=LIMIT)[0]


def passages(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, 4000, (n,), generator=generator).tolist() for n in lengths]


def read(model: LanguageModel) -> Tensor:
    return model.residuals(Packing(model.sharing, 64).pack_passages(passages(3, 30, 9, 17)))


def farthest(one: Tensor, other: Tensor) -> float:
    apart = (one.double() - other.double()).norm(dim=-1) / other.double().norm(dim=-1)
    return float(apart.max())


def column(run: Run, name: str) -> dict[int, float]:
    """Its values by row."""
    table = run.table("metrics")
    return dict(zip(table["row"].to_pylist(), table[name].to_pylist(), strict=True))


def overflow(model: LanguageModel, token: int) -> None:
    """Let a token's embedding be infinite, in the short pass only."""

    def spoil(_: nn.Module, args: tuple[Tensor], embedded: Tensor) -> Tensor:
        return embedded.masked_fill((args[0] == token)[..., None], float("inf"))

    assert model._fast is not model._run.module
    model._fast.get_input_embeddings().register_forward_hook(spoil)


def records(folder: Path, *prompts: str) -> list[str]:
    line = '{{"prompt": "{}", "fact": "blue", "hallucination": "green"}}\n'
    (folder / "in.jsonl").write_text("".join(line.format(prompt) for prompt in prompts))
    return [str(folder / "in.jsonl")]


@pytest.mark.parametrize("forward", ["native", "bridge"])
def test_in_bf16_the_model_is_close_and_what_follows_is_exact(load, monkeypatch, forward, tmp_path):
    seen = []
    worker = load(bf16=True, forward=forward)
    take = worker.tables.take

    def look(activations):
        seen.append(activations)
        return take(activations)

    monkeypatch.setattr(worker.tables, "take", look)
    exact, short = read(load().model), read(worker.model)
    assert 1e-4 < farthest(short, exact) < 0.05
    assert {sae.dtype for sae in worker.saes} == {torch.float32}
    run_with(worker, out=tmp_path / "RUN", limit=LIMIT)
    assert {layer.W_dec.dtype for one in seen for layer in one.layers} == {torch.float32}
    assert {layer.residual.dtype for one in seen for layer in one.layers} == {torch.float64}
    assert {layer.dtype for one in seen for layer in one.layers} == {torch.float64}


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_short_weights_share_all_but_the_matrices_and_compute_what_autocast_does(
    tmp_path, architecture
):
    model = load_model(make_model(tmp_path, architecture, initializer_range=0.2))
    module = model._run.module
    short = with_short_weights(module, torch.bfloat16)
    matrices = {
        f"{name}.weight"
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | Conv1D)
    }
    assert matrices
    theirs = dict([*module.named_parameters(), *module.named_buffers()])
    for name, tensor in (*short.named_parameters(), *short.named_buffers()):
        if name in matrices:
            assert tensor.equal(theirs.pop(name).bfloat16())
        else:
            assert tensor.data_ptr() == theirs.pop(name).data_ptr()
    assert not theirs
    rows = Packing("trie", 64).pack_passages(passages(3, 30, 9, 17))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert model._read(short, rows).equal(model._read(module, rows))
    assert {one.dtype for one in module.parameters()} == {torch.float32}


def test_in_bf16_a_hook_reads_once_a_pass(load, monkeypatch):
    model = load(bf16=True).model
    read_at = []
    keep = model._run._keep

    def count(place, output):
        read_at.append(place)
        keep(place, output)

    monkeypatch.setattr(model._run, "_keep", count)
    read(model)
    assert read_at == [0, 1, 2]


def test_what_overflows_in_bf16_is_run_again_in_float32(load, plain, tmp_path):
    worker = load(bf16=True)
    calm, _ = run_with(worker, out=tmp_path / "CALM", limit=LIMIT)
    (spoilt,) = worker.model.tokenizer(" river", add_special_tokens=False)["input_ids"][-1:]
    overflow(worker.model, spoilt)
    lines = records(tmp_path, "The sky is", "The river is", "The colour of a hill is")
    expected, _ = run_with(load(), paths=lines, out=tmp_path / "EXPECTED")
    run, summary = run_with(worker, paths=lines, out=tmp_path / "RUN")
    # all stand in one row, and what one token overflows there reaches the others
    assert summary.counters.session.reruns_in_float32 == 9
    assert run.manifest["counts"]["reruns_in_float32"] == 9
    assert run.table("rejected").num_rows == 0
    for name in MEASURED:
        assert column(run, name) == pytest.approx(column(expected, name), rel=1e-5)
    # where nothing overflows, nothing is run again
    again, summary = run_with(worker, out=tmp_path / "AGAIN", limit=LIMIT)
    assert summary.counters.session.reruns_in_float32 == 0
    for name in MEASURED:
        assert column(again, name) == column(calm, name)
        assert column(again, name) != pytest.approx(column(plain, name), rel=1e-5)


def test_rows_in_which_nothing_overflows_are_not_run_again(load, tmp_path):
    worker = load(bf16=True, sharing="none")
    token = worker.model.tokenizer("The river", add_special_tokens=False)["input_ids"][-1]
    overflow(worker.model, token)
    lines = records(tmp_path, "The sky is", "The river is", "The colour of a hill is")
    _, summary = run_with(worker, paths=lines, out=tmp_path / "RUN")
    assert summary.counters.session.reruns_in_float32 == 3


def test_what_is_not_finite_in_float32_either_is_rejected_alone(load, tmp_path):
    worker = load(bf16=True)
    token = worker.model.tokenizer("The river", add_special_tokens=False)["input_ids"][-1]
    lines = records(tmp_path, "The sky is", "The river is", "The colour of a hill is")
    expected, _ = run_with(load(), paths=lines, out=tmp_path / "EXPECTED")
    with torch.inference_mode():
        worker.model._run.module.get_input_embeddings().weight[token] = float("inf")
    run, summary = run_with(worker, paths=lines, out=tmp_path / "RUN")
    (rejected,) = run.table("rejected").to_pylist()
    assert rejected["row"] == 1
    assert "not finite, in float32 either" in rejected["reason"]
    assert summary.counters.session.reruns_in_float32 == 9
    for name in MEASURED:
        wanted = {row: value for row, value in column(expected, name).items() if row != 1}
        assert column(run, name) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("architecture", "forward"),
    [("gpt2", "native"), ("gpt2", "bridge"), ("gemma2", "native"), ("llama", "bridge")],
)
def test_short_weights_run_and_are_raised_to_float32_without_loss(
    tmp_path, architecture, forward, dtype
):
    path = make_model(tmp_path, architecture, initializer_range=0.2)
    model = load_model(path, forward=forward, dtype=dtype)
    exact = load_model(path, forward=forward)
    assert 1e-5 < farthest(read(model), read(exact)) < 0.1
    for one in exact._run.module.parameters():
        one.data = one.data.to(model.dtype).float()
    for one, other in zip(exact._run.module.buffers(), model._run.module.buffers(), strict=True):
        one.data = other.data.float()  # Gemma's embedding scale belongs to the format
    before = [one.clone() for one in model._run.module.parameters()]
    short, raised = read(model), model.residuals_apart(passages(3, 30, 9, 17))
    assert raised.dtype == torch.float32
    assert farthest(raised, read(exact)) < 2e-6
    after = list(model._run.module.parameters())
    assert all(one.dtype == model.dtype for one in after)
    assert all(one.equal(other) for one, other in zip(before, after, strict=True))
    assert read(model).equal(short)


def test_short_weights_come_back_though_a_pass_fails():
    module = nn.Linear(2, 2).half()
    with pytest.raises(ValueError, match="no"), in_float32(module):
        assert module.weight.dtype == torch.float32
        raise ValueError("no")
    assert module.weight.dtype == torch.float16


def test_weights_are_as_they_were_though_memory_runs_out_while_they_are_raised(monkeypatch):
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).half()
    before = [(one, one.data_ptr(), one.clone()) for one in module.parameters()]
    to, raised = Tensor.to, []

    def until_full(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if torch.float32 in args and len(raised) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        raised.append(args)
        return to(tensor, *args, **kwargs)

    monkeypatch.setattr(Tensor, "to", until_full)
    with pytest.raises(torch.OutOfMemoryError), in_float32(module):
        raise AssertionError("there was no memory for that")
    assert len(raised) == 2
    monkeypatch.undo()
    for parameter, address, values in before:
        assert parameter.dtype == torch.float16
        assert parameter.data_ptr() == address  # the weights themselves: nothing was converted back
        assert parameter.equal(values)


def formats_tried(monkeypatch) -> list[tuple[torch.dtype | None, torch.dtype]]:
    """What packed rows are tried in when a model is loaded: the products' format if it is another
    than the weights', and the weights'."""
    tried, difference = [], load_check._difference

    def look(model, passages):
        tried.append((model.autocast, next(model._fast.parameters()).dtype))
        return difference(model, passages)

    monkeypatch.setattr(load_check, "_difference", look)
    return tried


@pytest.mark.parametrize(
    "setting", [{"bf16": True}, {"dtype": "bfloat16"}, {"dtype": "float16"}], ids=str
)
def test_whether_rows_may_be_packed_is_tried_in_float32_whatever_format_is_run(
    load, monkeypatch, setting
):
    tried = formats_tried(monkeypatch)
    model = load(**setting).model
    assert tried == [(None, torch.float32)]
    assert model.autocast == (torch.bfloat16 if "bf16" in setting else None)
    assert str(model.dtype) == f"torch.{setting.get('dtype', 'float32')}"
    assert model.sharing == "trie"


def test_without_memory_for_float32_packed_rows_are_tried_in_the_format_of_the_weights(
    load, monkeypatch
):
    tried = formats_tried(monkeypatch)
    monkeypatch.setattr(precision, "free_memory", lambda _: 1000)
    assert load(dtype="bfloat16").model.sharing == "trie"
    assert tried == [(None, torch.bfloat16)]


def test_fp16_on_a_cpu_is_bfloat16_and_says_so(load):
    model = load(fp16=True).model
    assert model.autocast == torch.bfloat16
    assert "--fp16 runs in bfloat16 here" in " ".join(model.notes)
