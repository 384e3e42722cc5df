"""Errors that models, memories and devices raise, and what a run must still have."""

import pytest
import torch

from streamer.batches import PackedTokens
from streamer.computing.worker import Worker
from streamer.results.run import Run

CUDA_OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
try:
    torch.empty(2**62, dtype=torch.uint8)
except RuntimeError as error:
    OUT_OF_MEMORY = error  # as the allocator of the CPU raises it
ERROR = ValueError("cannot look at this\nsecond line")


def guilty_rows(rows: PackedTokens, worker: Worker) -> bool:
    (token,) = worker.model.tokenizer(" river", add_special_tokens=False)["input_ids"]
    return bool((rows.tokens == token).any())


def assert_equal_but(run: Run, plain: Run, without: tuple[int, ...] = ()) -> None:
    """The rows of `plain`, up to rounding, `without` some."""
    found = run.table("metrics").to_pylist()
    wanted = [row for row in plain.table("metrics").to_pylist() if row["row"] not in without]
    assert [row["row"] for row in found] == [row["row"] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        for name, value in other.items():
            wanted_value = pytest.approx(value, 1e-5, 1e-5) if isinstance(value, float) else value
            assert one[name] == wanted_value, name
