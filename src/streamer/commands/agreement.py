"""Batches against one text at a time, column by column: for `streamer verify`.

Two computations of the same number differ by rounding. A residual is off by about 1e-6 of its norm
in float32, and most columns follow it. Two things amplify it, and have a rule of their own:

- a feature within rounding of its threshold falls to either side, and so does a class or a rank.
  Where a number of active features differs, what is computed from those features is not compared;
  the share of such values is;
- the first principal axis turns by the rounding over the gap between the first two eigenvalues.
"""

import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from streamer.batches import Result
from streamer.commands.sample import Sample, take_sample
from streamer.computing.fault_isolation import FaultIsolation
from streamer.config import RunConfig
from streamer.device.settings import in_use
from streamer.errors import UsageError
from streamer.records import Chunk
from streamer.running.session import planner_for
from streamer.tables import Column, metrics_of

Numbers: TypeAlias = npt.NDArray[np.float64]
Values: TypeAlias = Mapping[str, Numbers]
"""By column, of each record; NaN for null, and of a class its number."""
RADIAN = 180 / math.pi
SMALLEST = {"itself": 0.0, "one": 1.0, "radian": RADIAN, "axis": RADIAN}
"""The least scale of a value, by how its column is rounded."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What rounding may make of a format."""

    relative: float
    """Of a number, relative to the scale of its column."""
    axis: float
    """The same of what depends on the first principal axis."""
    undecided: float
    """Share of values that may rest on a feature, class or rank that fell to the other side."""


RULES = {
    torch.float64: Rules(1e-9, 1e-9, 0.0),
    torch.float32: Rules(1e-5, 1e-2, 0.02),
}
SHORT_RULES = Rules(0.25, 1.0, 0.5)
"""bfloat16 has two to three digits: no closer agreement can be expected of batches."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One column."""

    name: str
    absolute: float
    """Largest difference of the values that were compared."""
    relative: float
    """The same, relative to the scale of the column."""
    allowed: float
    undecided: int
    """Values that rest on what fell to the other side."""
    values: int

    def holds(self, rules: Rules) -> bool:
        """Whether it is what rounding makes."""
        return self.relative <= self.allowed and self.undecided <= math.ceil(
            rules.undecided * self.values
        )


def batches_agree(config: RunConfig, records: int, console: Console) -> bool:
    """Whether the first `records` come out of batches as they do one text at a time; printed.

    :raises UsageError: the configuration is wrong, or nothing can be measured.
    """
    sample = take_sample(config, records, [metrics_of(exact=True)])
    model = sample.worker.model
    rules = SHORT_RULES if model.is_short else RULES[model.dtype]
    with in_use(model.device, deterministic=config.deterministic):
        alone, batched = _alone(sample), _batched(sample, config)
    columns = {column.name: column for column in sample.worker.columns}
    findings = [finding(name, columns, alone, batched, rules) for name in columns]
    wrong = [one for one in findings if not one.holds(rules)]
    _print(findings, rules, console)
    how = f"{model.forward} forward, sharing {sample.worker.packing.sharing}"
    console.print(
        f"{len(sample.records)} records, {how}: "
        + (
            f"[bold red]{len(wrong)} of {len(findings)} columns differ[/bold red] by more than "
            f"rounding: {', '.join(one.name for one in wrong[:3])}"
            if wrong
            else f"all {len(findings)} columns agree"
        ),
        highlight=False,
    )
    return not wrong


def finding(
    name: str, columns: Mapping[str, Column], alone: Values, batched: Values, rules: Rules
) -> Finding:
    """How far the column `name` differs."""
    column = columns[name]
    one, other = alone[name], batched[name]
    differs = (one != other) & ~(np.isnan(one) & np.isnan(other))
    if column.discrete:
        rests = differs  # it is the same, or fell to the other side
    else:
        rests = np.isnan(one) != np.isnan(other)
        for count in column.rests_on:
            rests |= alone[count] != batched[count]
    compared = differs & ~rests
    gap = np.abs(one - other)[compared]
    scale = _scale(column, columns, alone)[compared]
    return Finding(
        name=name,
        absolute=float(gap.max(initial=0.0)),
        relative=float((gap / np.maximum(scale, np.finfo(float).tiny)).max(initial=0.0)),
        allowed=rules.axis if _follows_axis(column, columns) else rules.relative,
        undecided=int(rests.sum()),
        values=len(one),
    )


def _scale(column: Column, columns: Mapping[str, Column], values: Values) -> Numbers:
    """What a difference is relative to, of each record."""
    if column.rounding == "parts":
        first, *others = (_scale(columns[part], columns, values) for part in column.parts)
        return functools.reduce(np.maximum, others, first)
    return np.maximum(np.abs(values[column.name]), SMALLEST[column.rounding])


def _follows_axis(column: Column, columns: Mapping[str, Column]) -> bool:
    return column.rounding == "axis" or any(
        _follows_axis(columns[part], columns) for part in column.parts
    )


def _alone(sample: Sample) -> Values:
    return _in_order(sample, [sample.worker.alone(record) for record in sample.records])


def _batched(sample: Sample, config: RunConfig) -> Values:
    """From the batches that `streamer run` would run: its planner cuts them, and learns how
    long each took."""
    computing, planner = FaultIsolation(sample.worker), planner_for(config, sample.worker)
    planner.add(Chunk.of(sample.records))
    results = []
    for batch in planner.cut(at_end=True):
        begin = time.perf_counter()
        results.append(computing.process(batch))
        planner.budget.measured(results[-1].work, time.perf_counter() - begin)
    return _in_order(sample, results)


def _in_order(sample: Sample, results: Sequence[Result]) -> Values:
    """The values of all results, in the order of the sample; NaN for a record that was rejected."""
    names = [column.name for column in sample.worker.columns]
    (table,) = sample.worker.tables.rows  # it was loaded with one
    rows = pa.concat_tables([result.tables[table] for result in results])
    if not rows.num_rows:
        raise UsageError(
            "every record was rejected: `streamer run` writes the reasons to RUN/rejected"
        )
    index_of = {record.origin.row: index for index, record in enumerate(sample.records)}
    order = [index_of[row] for row in rows["row"].to_pylist()]
    values = {name: np.full(len(sample.records), np.nan) for name in names}
    for name in names:
        values[name][order] = _numbers(rows[name])
    return values


def _numbers(column: pa.ChunkedArray) -> Numbers:
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.indices
    numbers: Numbers = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


def _print(findings: Sequence[Finding], rules: Rules, console: Console) -> None:
    table = Table(title="Largest difference from one text at a time", title_justify="left")
    table.add_column("column")
    for heading in ("absolute", "relative", "allowed", "undecided"):
        table.add_column(heading, justify="right")
    for one in findings:
        table.add_row(
            one.name,
            f"{one.absolute:.1e}",
            f"{one.relative:.1e}",
            f"{one.allowed:.0e}",
            f"{one.undecided} of {one.values}" if one.undecided else "",
            style="" if one.holds(rules) else "bold red",
        )
    console.print(table)
