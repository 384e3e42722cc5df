"""What is known of a column of measurements without its values, so that nothing need be read out of
its name."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

ColumnType: TypeAlias = Literal["float32", "float64", "int32", "category"]
Unit: TypeAlias = Literal["", "features", "degrees", "nats", "dimensions", "activation", "residual"]
"""`activation`: of an SAE's features; `residual`: of the residual stream; empty: a plain number."""
Precision: TypeAlias = Literal["float64", "float32", "short"]
"""Of what the model computes in; short formats have two to three digits."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two right computations of a value may be apart: so much, in that precision, of what
    it is relative to."""

    of: Literal["itself", "one", "radian", "parts"] = "itself"
    """The value itself; one or a radian, if that is larger; or the parts of a difference."""
    float64: float = 1e-9
    float32: float = 1e-5
    short: float = 0.25
    """One feature more of twenty, and the other numbers can still be compared as closely."""

    def at(self, precision: Precision) -> float:
        """What is allowed in that precision."""
        return {"float64": self.float64, "float32": self.float32, "short": self.short}[precision]


OF_ITSELF, OF_ONE, OF_RADIAN = Tolerance(), Tolerance("one"), Tolerance("radian")
OF_AXIS = Tolerance("radian", float32=1e-2, short=1.0)
"""Of what follows the first principal axis, which turns by the rounding over the gap between its
eigenvalue and the next."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of measurements, and all that is known of it without its values."""

    name: str
    type: ColumnType = "float32"
    categories: tuple[str, ...] = ()
    """What the values 0, 1, … of a category column stand for."""
    unit: Unit = ""
    discrete: bool = False
    """Whether it is a count, a class or a rank: rounding changes nothing, or makes it another."""
    tolerance: Tolerance = OF_ITSELF
    """How far two right computations of it may be apart."""
    parts: tuple[str, ...] = ()
    """The columns that it is the difference of."""
    rests_on: tuple[str, ...] = ()
    """The columns that count the features it is computed from: where one differs, so may this."""
    metric: str = ""
    """What is measured, without layer and passage."""
    layer: int | None = None
    """Where it is measured, if that is done at several."""
    passage: str | None = None
    """Of which it is; None if it is of the record."""
    layers: tuple[int, ...] = ()
    """The layers that it is computed from."""
    description: str = ""
    """What it is, in a few words."""
    definition: str = ""
    """How it is computed, in the symbols of `docs/metrics.md`."""
    heading: str = ""
    """What stands over it in the summary, if the metric's name would be long."""
    is_summed_up: bool = True
    """Whether the summary has its means, if there is one for a fact and one for a hallucination."""
