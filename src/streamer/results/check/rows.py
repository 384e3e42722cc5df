"""Row numbers: whether a commit has each of its rows once, in order."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


def fault_of_rows(first: int, end: int, found: Mapping[str, Numbers]) -> str | None:
    """The first fault if the row numbers in `found` (by part) are not first to end - 1, each once
    and ascending in each part; None if they are."""
    for name, numbers in found.items():
        if fault := fault_of_order(name, first, end, numbers, step=1):
            return fault
    every = np.sort(np.concatenate(list(found.values())))
    twice = every[1:][np.diff(every) == 0]
    names = " and ".join(found)
    if len(twice):
        return f"row {twice[0]} is in both {names}"
    if len(every) < end - first:
        gaps = np.flatnonzero(every != np.arange(first, first + len(every)))
        missing = first + (int(gaps[0]) if len(gaps) else len(every))
        return f"row {missing} is missing: it is not in {names}"
    return None


def fault_of_order(name: str, first: int, end: int, numbers: Numbers, step: int) -> str | None:
    """The first fault if the row `numbers` of the part `name` are not between first and end - 1,
    each at least `step` more than the one before; None if they are."""
    steps = np.flatnonzero(np.diff(numbers) < step)
    if len(steps):
        before, after = numbers[steps[0]], numbers[steps[0] + 1]
        if before == after:
            return f"{name} has row {after} twice"
        return f"{name} has row {after} after row {before}: not in order"
    outside = numbers[(numbers < first) | (numbers >= end)]
    if len(outside):
        return f"{name} has row {outside[0]}, though it covers {first} to {end - 1}"
    return None
