"""How far a run in a shorter format is from float32, on the records of a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from streamer.commands.agreement import TINY, residual_gaps, scale_of
from streamer.commands.measuring import Measured, Numbers, Values
from streamer.config import RunConfig
from streamer.tables import Column
from streamer.tables.metrics.columns import COUNT

SHOWN = 10
"""Lines of residuals, and of columns: those that are furthest off."""

LEAST = 1e-5
"""A smaller share is not worth its digits."""


@dataclass(frozen=True, slots=True)
class Distance:
    """One column, or the residual at one layer."""

    name: str
    metric: str
    largest: float
    """Difference, relative to the scale of the column in float32, or to the residual's norm."""
    median: float
    """Of that difference, over records, or over passages."""
    changed: int
    """Values that are of another class, or are there in one of the two only."""
    values: int
    """All that are there."""


def in_float32(config: RunConfig) -> RunConfig | None:
    """`config` without what makes it less exact than float32; None if nothing does."""
    if not (config.bf16 or config.fp16):
        return None
    return config.model_copy(update={"bf16": False, "fp16": False})


def distances_of(
    exact: Measured, short: Measured, columns: Mapping[str, Column]
) -> tuple[list[Distance], list[Distance]]:
    """Those of the residuals and those of the columns, the furthest first: by their median."""
    residuals = [
        _of_residual(name, residual, short.residuals[name])
        for name, residual in exact.residuals.items()
    ]
    found = [_of_column(column, columns, exact.values, short.values) for column in columns.values()]
    return _ordered(residuals), _ordered(found)


def _ordered(distances: Sequence[Distance]) -> list[Distance]:
    return sorted(distances, key=lambda one: (one.median, one.largest), reverse=True)


def _of_residual(name: str, exact: Numbers, short: Numbers) -> Distance:
    _, gaps = residual_gaps(exact, short)
    there = np.isfinite(gaps)
    return _distance(name, "residual", gaps[there], int((~there).sum()))


def _of_column(
    column: Column, columns: Mapping[str, Column], exact: Values, short: Values
) -> Distance:
    one, other = exact[column.name], short[column.name]
    there = ~(np.isnan(one) & np.isnan(other))
    changed = (np.isnan(one) != np.isnan(other)) & there
    if column.categories:
        changed = (one != other) & there
    scale = np.maximum(scale_of(column, columns, exact), 1 if column.discrete else TINY)
    gaps = (np.abs(one - other) / scale)[there & ~changed]
    return _distance(column.name, column.metric, gaps, int(changed.sum()))


def _distance(name: str, metric: str, gaps: Numbers, changed: int = 0) -> Distance:
    return Distance(
        name=name,
        metric=metric,
        largest=float(gaps.max(initial=0.0)),
        median=float(np.median(gaps)) if len(gaps) else 0.0,
        changed=changed,
        values=len(gaps) + changed,
    )


def print_distances(
    short: str, residuals: Sequence[Distance], columns: Sequence[Distance], console: Console
) -> None:
    """Print how far the format `short` is from float32: the furthest, a line for the rest, and a
    sentence."""
    table = Table(title=f"How far {short} is from float32", title_justify="left")
    table.add_column("the furthest", overflow="fold")
    for heading in ("median", "largest", "changed"):
        table.add_column(heading, justify="right")
    for group in (residuals, columns):
        for one in group[:SHOWN]:
            table.add_row(one.name, _percent(one.median), _percent(one.largest), _changed(one))
        table.add_section()
    console.print(table)
    rest = [
        _rest(group[SHOWN:], what)
        for group, what in ((residuals, "residuals"), (columns, "columns"))
        if group[SHOWN:]
    ]
    if rest:
        console.print(f"and {' and '.join(rest)}", highlight=False, soft_wrap=True)
    console.print(in_words(short, residuals, columns), highlight=False, soft_wrap=True)


def in_words(short: str, residuals: Sequence[Distance], columns: Sequence[Distance]) -> str:
    """The sentence: residuals and counts of features at the layer where they are furthest off, and
    the column that is, both by their median."""
    counts = next(one for one in columns if one.metric == COUNT)
    parts = [
        f"residuals are off by {_range(residuals[0], of=' of their norm')}",
        f"{COUNT} by {_range(counts)}",
        f"and most of all {columns[0].name} by {_range(columns[0])}",
    ]
    return f"{short} against float32: {', '.join(parts)}"


def _rest(rest: Sequence[Distance], what: str) -> str:
    most, changed = max(one.largest for one in rest), max(rest, key=lambda one: one.changed)
    line = (
        f"{len(rest)} more {what}, at most {_percent(rest[0].median)} (median) and "
        f"{_percent(most)} (largest)"
    )
    return line + (f", changed in at most {_changed(changed)}" if changed.changed else "")


def _range(one: Distance, of: str = "") -> str:
    return f"{_percent(one.median)}{of} (median; at most {_percent(one.largest)})"


def _changed(one: Distance) -> str:
    return f"{one.changed} of {one.values}" if one.changed else ""


def _percent(share: float) -> str:
    if 0 < share < LEAST:
        return f"under {100 * LEAST:g} %"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
