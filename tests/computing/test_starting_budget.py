"""What the first batches may hold, for a model, its SAEs and a device."""

from types import SimpleNamespace

import pytest
import torch

from streamer.batches import Footprint, Work
from streamer.computing import starting_budget
from streamer.computing.load import load_worker
from streamer.computing.starting_budget import budget_for, refuse_too_little_memory
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.records import Counts
from support.runs import run_with

DETERMINISTIC = RunConfig(device="cpu", deterministic=True)
MILLION = SimpleNamespace(W_dec=torch.empty(2**20, 64, device="meta"), dtype=torch.float32)
"""As much of an SAE with so many features as is asked for here."""


@pytest.fixture(scope="module")
def worker() -> Worker:
    return load_worker(DETERMINISTIC, "contrast")


def test_a_deterministic_run_is_limited_by_positions_and_never_by_time(worker):
    budget = budget_for(DETERMINISTIC, worker)
    full = Footprint(positions=4096, pairs=4096 * 128, passages=1000)
    assert budget.holds(500, full)
    assert not budget.holds(500, Footprint(positions=4097, pairs=0, passages=1))
    wide = Footprint(100, 0, passages=2**32 // budget.cost.passage)
    for _ in range(1000):
        budget.measured(Work(Counts(tokens=100, tokens_run=100), 100, largest=wide), seconds=1e-6)
    assert (budget.tokens, budget.bytes) == (4096, 2**32)


def test_a_deterministic_run_with_wide_saes_takes_few_passages_at_once(worker, monkeypatch):
    # At a million features a passage holds those of three layers, one of them twice, and twice as
    # much while a layer is encoded: 6 x 4 MB. The limit is 4 GB.
    monkeypatch.setattr(worker, "saes", (MILLION,) * 3)
    budget = budget_for(DETERMINISTIC, worker)
    assert budget.holds(50, Footprint(positions=500, pairs=0, passages=150))
    assert not budget.holds(50, Footprint(positions=500, pairs=0, passages=180))


@pytest.mark.parametrize(("free", "tokens"), [(0.5, 16), (0.3, None)])
def test_a_deterministic_run_whose_batches_may_not_fit_is_refused(
    worker, monkeypatch, tmp_path, free, tokens
):
    # With 16 positions a batch has at most 16 passages: 16 x 24 MB.
    monkeypatch.setattr(worker, "saes", (MILLION,) * 3)
    monkeypatch.setattr(starting_budget, "free_memory", lambda _: int(free * 1e9))
    with pytest.raises(UsageError, match="do not depend on how much memory is free") as refused:
        run_with(worker, out=tmp_path / "RUN", deterministic=True, device="cpu")
    assert "up to 4.3 GB" in str(refused.value)
    assert ("--max-tokens 16" in str(refused.value)) == (tokens == 16)
    assert not (tmp_path / "RUN").exists()
    smaller = RunConfig(device="cpu", deterministic=True, max_tokens=tokens)
    if tokens:
        refuse_too_little_memory(smaller, worker)
    refuse_too_little_memory(RunConfig(device="cpu"), worker)
