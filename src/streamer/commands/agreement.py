"""How far batches are from one text at a time, by residual and by column, and what rounding makes.

Two computations of the same number differ by rounding. A residual is off by about 1e-6 of its norm
in float32, and most columns follow it. Two things amplify it, and have a rule of their own:

- a feature within rounding of its threshold falls to either side, and so does a class or a rank.
  Where a number of active features differs, what is computed from those features is undecided: it
  is not compared. A few such values are rounding; where many are, nothing was shown to agree;
- the first principal axis turns by the rounding over the gap between the first two eigenvalues.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from streamer.commands.measuring import Measured, Numbers, Values
from streamer.computing.model.language_model import LanguageModel
from streamer.tables import Column
from streamer.tables.column import Precision

RADIAN = 180 / math.pi
SMALLEST = {"itself": 0.0, "one": 1.0, "radian": RADIAN}
"""The least scale of a value, by what its column's tolerance is relative to."""
TINY = np.finfo(float).tiny


@dataclass(frozen=True, slots=True)
class Rules:
    """What rounding may make of a format; of a number, its column says it."""

    precision: Precision
    residual: float
    """Of a residual, relative to its norm."""
    undecided: float
    """Share of a column's values that may rest on a feature, class or rank that fell to the other
    side; but never more than half of them."""
    same: float = 1e-6
    """By how much of itself a count, or a number made of ranks, may differ and be the same: in
    exact formats, by what adding up the ranks of several draws in another order makes of it."""

    def undecided_of(self, values: int) -> int:
        """How many of so many values may be undecided."""
        return min(math.ceil(self.undecided * values), values // 2)


RULES = {
    torch.float64: Rules("float64", 1e-9, 0.0),
    torch.float32: Rules("float32", 1e-5, 0.02),
}
SHORT_STEPS = 8
"""In a short format a residual may be off by so many steps of it: in each layer, some products come
out a step higher or lower."""


def short_rules(dtype: torch.dtype) -> Rules:
    """Of a format of two to three digits: no closer agreement can be expected of batches."""
    return Rules("short", SHORT_STEPS * torch.finfo(dtype).eps, 0.5, same=0.05)


def rules_for(model: LanguageModel) -> Rules:
    """Those of the format that `model` computes in."""
    return short_rules(model.autocast or model.dtype) if model.is_short else RULES[model.dtype]


@dataclass(frozen=True, slots=True)
class Finding:
    """One column, or the residual at one layer."""

    name: str
    absolute: float
    """Largest difference of the values that were compared."""
    relative: float
    """The same, relative to the scale of the column, or to the residual's norm."""
    allowed: float
    undecided: int
    """Values that rest on what fell to the other side."""
    undecided_allowed: int
    """How many values may do so."""
    values: int
    """Those that are there, alone or in batches."""

    @property
    def differs(self) -> bool:
        """Whether it is off by more than rounding."""
        return self.relative > self.allowed

    @property
    def is_undecided(self) -> bool:
        """Whether too little of it could be compared to say that it agrees."""
        return self.undecided > self.undecided_allowed

    @property
    def holds(self) -> bool:
        """Whether it agrees."""
        return not (self.differs or self.is_undecided)

    @property
    def badness(self) -> tuple[bool, float, float]:
        """What the worst have most of: first those that do not hold, then how near the rest are to
        what is allowed."""
        return not self.holds, self.relative / self.allowed, self.undecided / max(self.values, 1)


def findings_of(
    alone: Measured, batched: Measured, columns: Mapping[str, Column], rules: Rules
) -> tuple[list[Finding], list[Finding]]:
    """Those of the residuals, and those of the columns."""
    residuals = [
        of_residual(name, alone.residuals[name], batched.residuals[name], rules)
        for name in alone.residuals
    ]
    return residuals, [
        of_column(name, columns, alone.values, batched.values, rules) for name in columns
    ]


def of_residual(name: str, alone: Numbers, batched: Numbers, rules: Rules) -> Finding:
    """How far the residual `name` differs, [record, passage, width]. Infinitely, if one has it and
    the other was rejected."""
    absolute, relative = residual_gaps(alone, batched)
    return Finding(
        name=name,
        absolute=float(absolute.max(initial=0.0)),
        relative=float(relative.max(initial=0.0)),
        allowed=rules.residual,
        undecided=0,
        undecided_allowed=0,
        values=len(relative),
    )


def residual_gaps(one: Numbers, other: Numbers) -> tuple[Numbers, Numbers]:
    """How far `other` is from `one`, [record, passage, width], of each passage that either has;
    and the same relative to the norm of `one`."""
    missing = np.isnan(one).any(-1), np.isnan(other).any(-1)
    gap = np.linalg.norm(one - other, axis=-1)
    gap[missing[0] != missing[1]] = np.inf
    there = ~(missing[0] & missing[1])
    norm = np.linalg.norm(np.nan_to_num(one), axis=-1)
    return gap[there], (gap / np.maximum(norm, TINY))[there]


def of_column(
    name: str, columns: Mapping[str, Column], alone: Values, batched: Values, rules: Rules
) -> Finding:
    """How far the column `name` differs."""
    column = columns[name]
    one, other = alone[name], batched[name]
    there = ~(np.isnan(one) & np.isnan(other))

    def fell(which: str) -> npt.NDArray[np.bool_]:
        """Of which records this count, class or number made of ranks came out as another."""
        left, right = alone[which], batched[which]
        apart = rules.same * scale_of(columns[which], columns, alone)
        null = np.isnan(left) != np.isnan(right)
        found: npt.NDArray[np.bool_] = null | (np.abs(left - right) > apart)
        return found

    resting_on = [name] if column.discrete else column.rests_on
    rests = np.isnan(one) != np.isnan(other)
    for which in resting_on:
        rests |= fell(which)
    compared = there & ~rests
    gap = np.abs(one - other)[compared]
    scale = scale_of(column, columns, alone)[compared]
    values = int(there.sum())
    return Finding(
        name=name,
        absolute=float(gap.max(initial=0.0)),
        relative=float((gap / np.maximum(scale, TINY)).max(initial=0.0)),
        allowed=column.tolerance.at(rules.precision),
        undecided=int((rests & there).sum()),
        undecided_allowed=rules.undecided_of(values),
        values=values,
    )


def scale_of(column: Column, columns: Mapping[str, Column], values: Values) -> Numbers:
    """What a difference is relative to, of each record."""
    if column.tolerance.of == "parts":
        first, *others = (scale_of(columns[part], columns, values) for part in column.parts)
        return functools.reduce(np.maximum, others, first)
    return np.maximum(np.abs(values[column.name]), SMALLEST[column.tolerance.of])
