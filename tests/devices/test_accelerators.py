"""A whole batch on an accelerator that is not there, by the rules of the real one.

The embedded model is moved onto it (see `support/pretended.py`). On MPS, every operation must have
a kernel and nothing may be float64. On CUDA, the host must not wait for the device before it has
given it the next batch. Each rule is tried on faults that were in this program once.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.architectures import make_architecture
from streamer.batches import Batch, Result
from streamer.computing.fault_isolation import FaultIsolation
from streamer.computing.model.language_model import LanguageModel
from streamer.computing.worker import Worker
from streamer.device.transfers import ToHost
from streamer.planning.packing import Packing
from support.judges import MpsKernels, NoWaiting
from support.models import load_model
from support.moved import SHARINGS, assert_same, batch_for, load, move_model, moved, put_back
from support.pretended import OnDevice, Pretended
from support.pretended_cuda import Steps, pretend_cuda

# MPS


@pytest.fixture
def mps() -> Pretended:
    return Pretended(torch.device("mps:0"), MpsKernels())


@pytest.mark.parametrize("sharing", SHARINGS)
def test_on_mps_every_operation_has_a_kernel_and_nothing_is_float64(mps, sharing):
    worker = load(sharing)
    batch = batch_for(worker)
    expected = worker.process(batch)
    with mps:
        result = moved(worker, mps).process(batch)
    assert_same(result, expected, 1e-3)
    assert {"aten::linear", "aten::nonzero_static"} <= mps.seen
    assert len(mps.seen) > 40


def test_on_mps_an_sae_is_compared_with_saelens_when_it_is_loaded(mps):
    worker = load()
    with mps:
        assert all(sae._agrees() for sae in moved(worker, mps).saes)


def on_mps(mode: Pretended, what: Callable[[torch.Tensor], Any]) -> None:
    with mode, torch.inference_mode():
        what(mode.put(torch.eye(3)))


LACKING: dict[str, Callable[[torch.Tensor], Any]] = {
    "eigenvalues": torch.linalg.eigvalsh,
    "eigenvectors": torch.linalg.eig,
    "float64": lambda x: x.double(),
    "float64 by name": lambda x: torch.zeros(3, device=x.device, dtype=torch.float64),
    "float64 from the host": lambda x: torch.ones(3, dtype=torch.float64).to(x.device),
}


@pytest.mark.parametrize("fault", LACKING)
def test_what_mps_lacks_is_seen(mps, fault):
    with pytest.raises(AssertionError, match="MPS"):
        on_mps(mps, LACKING[fault])


@pytest.mark.parametrize("fault", ["float64", "eigenvalues"])
def test_todays_faults_are_seen_in_a_batch_on_mps(mps, monkeypatch, fault):
    worker = load()
    batch = batch_for(worker)
    put_back(fault, monkeypatch)
    with mps, pytest.raises(AssertionError, match="MPS"):
        moved(worker, mps).process(batch)


# CUDA


@pytest.fixture
def cuda(monkeypatch) -> tuple[Pretended, Steps]:
    judge = NoWaiting()
    mode = judge.mode = Pretended(torch.device("cuda:0"), judge)
    return mode, pretend_cuda(monkeypatch, mode)


@pytest.fixture
def stepping(cuda, monkeypatch) -> Steps:
    """Count the steps of all batches."""
    _, steps = cuda

    def counted(call):
        def step(*args):
            steps.now += 1
            return call(*args)

        return step

    for name in ("launch", "decompose", "measure", "collect"):
        monkeypatch.setattr(Worker, name, counted(getattr(Worker, name)))
    return steps


def fed(worker: Worker, batches: list[Batch]) -> list[Result]:
    """The results of `batches`, given to the worker one after the other."""
    isolation = FaultIsolation(worker)
    results = [result for batch in batches for result in isolation.feed(batch)]
    return results + isolation.finish()


@pytest.mark.parametrize("sharing", SHARINGS)
def test_on_cuda_the_host_waits_for_nothing_that_it_has_just_asked_for(cuda, stepping, sharing):
    mode, _ = cuda
    worker = load(sharing)
    batches = [batch_for(worker, first) for first in range(5)]
    expected = [worker.process(batch) for batch in batches]
    stepping.waited = 0
    with mode:
        results = fed(moved(worker, mode), batches)
    for result, wanted in zip(results, expected, strict=True):
        assert_same(result, wanted, 1e-5)
    # counts and metrics; the matrices are waited for by other threads
    assert stepping.waited == 2 * len(batches)
    assert len(mode.seen) > 40


UNLIKE = {
    "GPT-2": "trie",  # looks for padding
    "Gemma 3, multimodal": "trie",  # windows in some layers
    "Mistral": "trie",  # windows in all
    "Llama 4: chunks": "prefix",
    "BLOOM": "prefix",  # a bias by distance
}
"""Architectures that differ in how they mask, and what they share at most."""
MASKED = [
    (name, sharing) for name, most in UNLIKE.items() for sharing in dict.fromkeys(("prefix", most))
]


@pytest.fixture
def unlike(request, tmp_path) -> LanguageModel:
    """Of that architecture, on the CPU, and loaded before there is a CUDA device."""
    return load_model(make_architecture(request.param, tmp_path), layers=(0, 3))


@pytest.mark.parametrize(("unlike", "sharing"), MASKED, indirect=["unlike"])
def test_on_cuda_the_host_does_not_wait_however_an_architecture_masks(unlike, cuda, sharing):
    mode, _ = cuda
    stem = tuple(range(9, 49))  # longer than its windows and chunks
    rows = Packing(sharing, 200).pack_passages([stem[:5], (*stem, 9), (*stem, 10), stem[4:]])
    assert rows.branches == (sharing == "trie")
    expected = unlike.residuals(rows)
    with mode:
        move_model(unlike, mode)
        found = unlike.residuals(rows)
    assert torch.allclose(found.held, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("question", ["padding", "several texts"])
@pytest.mark.parametrize("unlike", ["GPT-2"], indirect=True)
def test_what_hugging_face_asks_about_rows_is_seen(unlike, cuda, monkeypatch, question):
    mode, _ = cuda
    rows = Packing("none", 200).pack_passages([(9, 10, 11), (9, 12)])
    if question == "padding":
        unlike._run.module.config.pad_token_id = 0
    else:
        monkeypatch.setattr(unlike._run, "_asks", True)
    with mode, pytest.raises(AssertionError, match="the host waits"):
        move_model(unlike, mode)
        unlike.residuals(rows)


@pytest.mark.usefixtures("stepping")
def test_the_indices_of_a_batch_come_onto_cuda_in_one_copy(cuda, monkeypatch):
    mode, _ = cuda
    worker = load()
    batch = batch_for(worker)
    from_host = []
    copy = mode._copy

    def look(name, func, args, kwargs):
        source = args[0] if name == "aten::_to_copy" else args[1]
        if not isinstance(source, OnDevice):
            from_host.append(source.dtype)
        return copy(name, func, args, kwargs)

    monkeypatch.setattr(mode, "_copy", look)
    with mode:
        moved(worker, mode).launch(batch)
    assert from_host == [torch.int64]


def arrived(event: Any) -> None:
    event.record()
    event.synchronize()


WAITING: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda x: float(x.sum()),
    "if": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "boolean index": lambda x: x[x > 0],
    "boolean assignment": lambda x: x.__setitem__(x > 0, 1.0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "a list": lambda x: torch.tensor([1, 2], device=x.device),
    "an index of the host": lambda x: x[torch.tensor([0, 1])],
    "an index as a list": lambda x: x[[0, 1]],
    "a copy that is not pinned": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "a copy that blocks": lambda x: torch.ones(3).pin_memory().to(x.device),
    "to the host": lambda x: x.cpu(),
    "into memory that is not pinned": lambda x: torch.empty(3, 3).copy_(x, non_blocking=True),
    "into pinned memory, blocking": lambda x: torch.empty(3, 3, pin_memory=True).copy_(x),
    "eigenvalues": torch.linalg.eigvalsh,
    "Cholesky": torch.linalg.cholesky,
    "Cholesky, checked": lambda x: torch.linalg.cholesky_ex(x, check_errors=True),
    "inverse": torch.linalg.inv,
    "repeats of the device": lambda x: x.repeat_interleave(x[0].long() + 1, dim=0),
    "equal": lambda x: torch.equal(x, x),
    "synchronize": lambda _: arrived(torch.cuda.Event(blocking=True)),
}


@pytest.mark.parametrize("fault", WAITING)
def test_what_makes_the_host_wait_is_seen(cuda, fault):
    mode, _ = cuda
    with mode, torch.inference_mode(), pytest.raises(AssertionError, match="the host waits"):
        WAITING[fault](mode.put(torch.eye(3)))


def pinned() -> torch.Tensor:
    return torch.ones(3, 3).pin_memory()


HARMLESS: dict[str, Callable[[torch.Tensor], Any]] = {
    "an index of the device": lambda x: x[torch.arange(2, device=x.device)],
    "numbers": lambda x: (x + 1) * 2 @ x,
    "top": lambda x: x.topk(2),
    "a fill": lambda x: x.masked_fill(x > 0, 1.0),
    "a pinned copy": lambda x: pinned().to(x.device, non_blocking=True),
    "Cholesky, unchecked": torch.linalg.cholesky_ex,
    "into pinned memory": lambda x: torch.empty(3, 3, pin_memory=True).copy_(x, non_blocking=True),
}


@pytest.mark.parametrize("work", HARMLESS)
def test_what_does_not_make_it_wait_is_let_pass(cuda, work):
    mode, _ = cuda
    with mode, torch.inference_mode():
        HARMLESS[work](mode.put(torch.eye(3)))


FAULTS = ["eigenvalues", "lists", "noise of the host", "read at once", "a look at numbers"]


@pytest.mark.usefixtures("stepping")
@pytest.mark.parametrize("fault", FAULTS)
def test_todays_faults_are_seen_in_a_batch_on_cuda(cuda, monkeypatch, fault):
    mode, _ = cuda
    worker = load()
    batches = [batch_for(worker, first) for first in range(2)]
    put_back(fault, monkeypatch)
    with mode, pytest.raises(AssertionError, match="the host waits"):
        in_flight = moved(worker, mode).launch(batches[0])
        while worker.advance(in_flight) is None:
            worker.launch(batches[1])


def test_a_copy_that_is_written_to_on_its_way_is_seen(cuda):
    mode, steps = cuda
    with mode:
        x = mode.put(torch.ones(3))
        on_its_way = ToHost(x)
        steps.now += 1
        x.add_(1)
        with pytest.raises(AssertionError, match="written to while it was copied"):
            on_its_way.wait()
