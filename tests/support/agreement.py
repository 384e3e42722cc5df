"""Whether streamer's numbers are the reference's, up to rounding."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from support.reference import Value


class Rounding(NamedTuple):
    """How far apart two right computations may lie."""

    value: float
    """Of a value, relative to its scale."""
    decision: float
    """Of a pre-activation, relative to ‖x‖·‖w‖: a nearer decision may fall either way."""


def disagreements(
    expected: Sequence[Mapping[str, Value]],
    found: Sequence[Mapping[str, object]],
    rounding: Rounding,
    undecided: float = 0.01,
) -> list[str]:
    """A line for each found value that is not the expected one, and one if more than the fraction
    `undecided` could not be compared."""
    lines, skipped, total = [], 0, 0
    for place, (wanted, got) in enumerate(zip(expected, found, strict=True)):
        assert wanted.keys() == got.keys()
        for name, value in wanted.items():
            total += 1
            if value.margin < rounding.decision:
                skipped += 1
            elif not _same(value, got[name], rounding.value):
                lines.append(f"record {place}, {name}: {got[name]}, expected {value}")
    if skipped > undecided * total:
        lines.append(f"{skipped} of {total} values rest on decisions too near to call")
    return lines


def _same(value: Value, found: object, rtol: float) -> bool:
    if isinstance(value.value, float) and isinstance(found, float):
        return abs(found - value.value) <= rtol * value.scale
    return value.value == found
