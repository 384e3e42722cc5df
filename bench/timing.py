"""How long calls take, alone or in turns."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def median_seconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """Median of `repeats` calls, each waited for; a call before them is not counted."""
    work()
    return statistics.median(seconds(work, device) for _ in range(repeats))


def seconds(work: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Of one call, with what it leaves to the device."""
    wait_for(device)
    begin = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - begin


def in_turns(ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each of `ways` returns, `repeats` times: all of them once, then all once more, so that
    whatever else the machine does falls on all alike."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(way())
    return found


def medians(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of each way."""
    return {name: statistics.median(values) for name, values in found.items()}


def bfloat16_cost(device: str | torch.device) -> float:
    """How many times as long matrix products take in bfloat16 as in float32: above 1 where the
    device has no instructions for them."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(512, 1024, dtype=dtype, device=device)
        found[dtype] = median_seconds(lambda a=a: a @ a.mT, 5, str(device))
    return found[torch.bfloat16] / found[torch.float32]


def wait_for(device: str | torch.device) -> None:
    """Return when `device` has done all that it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
