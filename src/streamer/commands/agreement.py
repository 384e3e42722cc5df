"""Batches against one text at a time, column by column: for `streamer verify`.

Two computations of the same number differ by rounding. A residual is off by about 1e-6 of its norm
in float32, and most columns follow it. Two things amplify it, and have a rule of their own:

- a feature within rounding of its threshold falls to either side, and so does a class or a rank.
  Where a number of active features differs, what is computed from those features is not compared;
  the share of such values is;
- the first principal axis turns by the rounding over the gap between the first two eigenvalues.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from streamer.commands.sample import Sample, take_sample
from streamer.computing.fault_isolation import FaultIsolation
from streamer.config import RunConfig
from streamer.device.settings import in_use
from streamer.errors import UsageError
from streamer.planning.budget import Budget
from streamer.planning.planner import Planner
from streamer.records import Chunk, Column, Result

Table2D = npt.NDArray[np.float64]
RADIAN = 180 / math.pi
FIXED_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Rules:
    """What rounding may make of a format."""

    relative: float
    """Of a number, to itself (angles: to a radian; gini: to 1; differences: to their parts)."""
    axis: float
    """The same of what depends on the first principal axis."""
    undecided: float
    """Share of values that may rest on a feature, class or rank that fell to the other side."""


RULES = {
    torch.float64: Rules(1e-9, 1e-9, 0.0),
    torch.float32: Rules(1e-5, 1e-2, 0.02),
}
SHORT_RULES = Rules(0.25, 1.0, 0.5)
"""bfloat16 has two to three digits: that batches are not off by more is all that can be said."""


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
    sample = take_sample(config, records)
    model = sample.worker.model
    rules = SHORT_RULES if model.is_short else RULES[model.dtype]
    with in_use(model.device, deterministic=config.deterministic):
        alone, batched = _alone(sample), _batched(sample, config)
    columns = sample.worker.columns
    findings = [finding(place, columns, alone, batched, rules) for place in range(len(columns))]
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
    place: int, columns: Sequence[Column], alone: Table2D, batched: Table2D, rules: Rules
) -> Finding:
    """How far the column at `place` of the tables [record, column] differs."""
    column = columns[place]
    names = [one.name for one in columns]
    one, other = alone[:, place], batched[:, place]
    differs = (one != other) & ~(np.isnan(one) & np.isnan(other))
    if column.type != "float32" or column.name.startswith("stability"):
        rests = differs  # a count, a class or a rank: it is the same, or fell to the other side
    else:
        rests = np.zeros(len(one), dtype=bool)
        for count in counts_behind(column.name, names):
            rests |= alone[:, count] != batched[:, count]
        rests |= np.isnan(one) != np.isnan(other)
    compared = differs & ~rests
    gap = np.abs(one - other)[compared]
    scale = _scale(column.name, names, alone)[compared]
    return Finding(
        name=column.name,
        absolute=float(gap.max(initial=0.0)),
        relative=float((gap / np.maximum(scale, np.finfo(float).tiny)).max(initial=0.0)),
        allowed=rules.axis
        if "misalignment" in column.name or "twist" in column.name
        else rules.relative,
        undecided=int(rests.sum()),
        values=len(one),
    )


def counts_behind(name: str, names: Sequence[str]) -> list[int]:
    """Places of the columns that count the features which the column `name` is computed from."""
    prefix = name.rpartition("_")[0]
    while prefix and f"{prefix}_l0_norm" not in names:
        prefix = prefix.rpartition("_")[0]
    if prefix:  # l5_fact_gini rests on l5_fact_l0_norm
        return [names.index(f"{prefix}_l0_norm")]
    passage = name.rpartition("_")[2]
    mine = [
        place
        for place, one in enumerate(names)
        if one.endswith("_l0_norm") and f"_{passage}_" in one
    ]
    compared_with = [
        place
        for place, one in enumerate(names)
        if one.endswith("_l0_norm") and ("_prompt_" in one or passage == "diff")
    ]
    return mine + compared_with


def _scale(name: str, names: Sequence[str], table: Table2D) -> npt.NDArray[np.float64]:
    """What a difference is relative to, of each record."""
    values = np.abs(table[:, names.index(name)])
    if name.endswith("_diff"):
        parts = [name.replace("_diff", f"_{side}") for side in ("fact", "hall")]
        values = np.max([_scale(part, names, table) for part in parts], axis=0)
    if any(angle in name for angle in ("misalignment", "twist", "drift")):
        return np.maximum(values, RADIAN)
    return np.maximum(values, 1.0) if name.endswith("gini") else values


def _alone(sample: Sample) -> Table2D:
    return _in_order(sample, [sample.worker.alone(record) for record in sample.records])


def _batched(sample: Sample, config: RunConfig) -> Table2D:
    computing = FaultIsolation(sample.worker)
    budget = Budget(config.max_tokens or FIXED_TOKENS, records=config.batch_size)
    planner = Planner(sample.worker.packing, budget, len(sample.records), 2**62)
    planner.add(Chunk.of(sample.records))
    return _in_order(sample, [computing.process(batch) for batch in planner.cut()])


def _in_order(sample: Sample, results: Sequence[Result]) -> Table2D:
    """The values of all results, in the order of the sample; NaN for a record that was rejected."""
    places = {record.origin.row: place for place, record in enumerate(sample.records)}
    table = np.full((len(places), len(sample.worker.columns)), np.nan)
    for result in results:
        for record, values in zip(result.records, result.values, strict=True):
            table[places[record.origin.row]] = values
    if np.isnan(table).all():
        raise UsageError("every record was rejected: `streamer run` says why in RUN/rejected")
    return table


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
