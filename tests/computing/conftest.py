"""A worker of float64, with failures put before its model."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from streamer.batches import PackedTokens
from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.device.traits import TRAITS


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_worker(RunConfig(dtype="float64", device="cpu"), "contrast")
    torch.set_num_threads(threads)


@pytest.fixture
def model(worker, monkeypatch) -> Callable[..., list[int]]:
    """Put `fails`, which is told the rows of a pass and its number, before the model; it may return
    an error to raise. Returns the sizes of the passes."""

    def put(fails: Callable[[PackedTokens, int], BaseException | None]) -> list[int]:
        passes: list[int] = []
        residuals = worker.model.residuals

        def run(rows: PackedTokens, on_device: Any = None) -> Any:
            passes.append(rows.size)
            error = fails(rows, len(passes))
            if error is not None:
                raise error
            return residuals(rows)

        monkeypatch.setattr(worker.model, "residuals", run)
        return passes

    return put


@pytest.fixture(params=["at once", "step by step"])
def feeding(request, monkeypatch) -> None:
    """As batches are fed on a CPU, and as on CUDA."""

    if request.param == "step by step":
        monkeypatch.setitem(TRAITS, "cpu", dataclasses.replace(TRAITS["cpu"], runs_ahead=True))
