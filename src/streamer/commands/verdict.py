"""What `streamer verify` finds: whether batches agree with one text at a time, in words."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from streamer.commands.agreement import Finding, findings_of, rules_for
from streamer.commands.distance import distances_of, in_float32, print_distances
from streamer.commands.measuring import TO_COMPARE, Measured, alone, in_batches
from streamer.commands.sample import take_sample, tell, worker_for
from streamer.computing.model.language_model import LanguageModel
from streamer.computing.starting_budget import refuse_too_little_memory
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.device.errors import release
from streamer.device.settings import in_use

SHOWN = 10
"""Lines of residuals, and of columns: the worst."""
NAMED = 3
"""Names in a sentence."""


def batches_agree(config: RunConfig, records: int, console: Console) -> bool:
    """Whether the first `records` come out of batches as they do one text at a time; printed. If
    products are in a shorter format than float32, how far that is from float32 is printed, too.

    :raises UsageError: the configuration is wrong, nothing can be measured, or the batches of a
        deterministic run may not fit the memory.
    """
    sample = take_sample(config, records, TO_COMPARE)
    tell(sample.notes, console)
    worker, chunks, kind = sample.worker, sample.chunks, sample.kind
    device, columns = worker.model.device, {column.name: column for column in worker.columns}
    refuse_too_little_memory(config, worker)
    with in_use(device, deterministic=config.deterministic):
        batched, one_by_one = in_batches(worker, chunks, config), alone(worker, chunks)
    tell(batched.notes, console)
    residuals, found = findings_of(one_by_one, batched, columns, rules_for(worker.model))
    _print_findings(residuals, found, console)
    problems = problems_of(residuals, found, longer_than(worker.model))
    verdict = "[bold red]no agreement[/bold red]" if problems else _agreement(residuals, found)
    console.print(f"{_what(batched, worker)}: {verdict}", highlight=False, soft_wrap=True)
    for problem in problems:
        console.print(problem, highlight=False, markup=False, soft_wrap=True)
    longer = in_float32(config)
    if longer is not None:
        short = str(worker.model.autocast).removeprefix("torch.")
        del sample, worker  # the device need not hold both
        release(device)
        worker = worker_for(longer, kind, TO_COMPARE)
        with in_use(device, deterministic=config.deterministic):
            exact = in_batches(worker, chunks, longer)
        print_distances(short, *distances_of(exact, batched, columns), console)
    return not problems


def worst(findings: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """The worst `SHOWN` of them, those that do not hold first, and the rest."""
    ordered = sorted(findings, key=lambda one: one.badness, reverse=True)
    return ordered[:SHOWN], ordered[SHOWN:]


def longer_than(model: LanguageModel) -> str | None:
    """How to measure in a longer format than `model` computes in, if there is one."""
    if model.is_short:
        return "in float32"
    return None if model.dtype == torch.float64 else "with --dtype float64"


def problems_of(
    residuals: Sequence[Finding], columns: Sequence[Finding], longer: str | None
) -> list[str]:
    """What keeps batches from agreeing, each with what to do about it; none if they agree.
    `longer`: how to measure in a longer format (see `longer_than`)."""
    found = []
    wrong, _ = worst([one for one in residuals if one.differs])
    if wrong:
        by = f"by {wrong[0].relative:.1e} of its norm, where {wrong[0].allowed:.0e} is allowed"
        if math.isinf(wrong[0].relative):
            by = "as a record is rejected in its batch and not alone, or alone and not in its batch"
        found.append(
            f"{len(wrong)} of {len(residuals)} residuals differ by more than rounding: the "
            f"{wrong[0].name} {by}. What the model computes of a text depends on the "
            f"batch that it is in. Try --sharing prefix, --sharing none and --batch-size 1, and "
            f"measure with the first that agrees."
        )
    differing = [one for one in columns if one.differs]
    if differing:
        found.append(
            f"{len(differing)} of {len(columns)} columns differ by more than rounding: "
            f"{_named(differing)}."
            + (f" Measured {longer}, they may agree." if longer and not wrong else "")
        )
    undecided = [one for one in columns if one.is_undecided]
    if undecided:
        (first, *_), _ = worst(undecided)
        found.append(
            f"{len(undecided)} of {len(columns)} columns are undecided: {first.name} in "
            f"{first.undecided} of {first.values} records, where {first.undecided_allowed} are "
            f"allowed. There a batch has other active features than the text alone, or another "
            f"class or rank, so that the values were not compared: nothing shows that these "
            f"columns agree, and what a run writes into them depends on the batch. "
            + (f"Measured {longer}, fewer may be. " if longer else "")
            + "If it may be chance, verify more records: --records."
        )
    return found


def _agreement(residuals: Sequence[Finding], columns: Sequence[Finding]) -> str:
    furthest = max(one.relative for one in residuals)
    empty = sum(not one.values for one in columns)
    return (
        f"residuals agree to {furthest:.1e} of their norm, and all {len(columns)} columns agree"
        + (f", {empty} of which have no value here" if empty else "")
    )


def _what(batched: Measured, worker: Worker) -> str:
    """What was compared."""
    first, *_ = batched.residuals.values()
    lost = int(np.isnan(first).any((1, 2)).sum())
    count = f"{len(first) - lost} of {len(first)} records, the others rejected" if lost else ""
    how = f"{worker.model.forward} forward, sharing {worker.packing.sharing}"
    return f"{count or f'{len(first)} records'}, {how}"


def _named(findings: Sequence[Finding]) -> str:
    shown, rest = worst(findings)
    names = [one.name for one in shown[:NAMED]]
    more = len(shown) + len(rest) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _print_findings(
    residuals: Sequence[Finding], columns: Sequence[Finding], console: Console
) -> None:
    table = Table(title="Largest difference from one text at a time", title_justify="left")
    table.add_column("the worst", overflow="fold")
    for heading in ("absolute", "relative", "allowed", "undecided"):
        table.add_column(heading, justify="right")
    for group in (residuals, columns):
        for one in worst(group)[0]:
            table.add_row(
                one.name,
                f"{one.absolute:.1e}",
                f"{one.relative:.1e}",
                f"{one.allowed:.0e}",
                f"{one.undecided} of {one.values}" if one.undecided else "",
                style="" if one.holds else "bold red",
            )
        table.add_section()
    console.print(table)
    rest = [
        _rest(worst(group)[1], what)
        for group, what in ((residuals, "residuals"), (columns, "columns"))
        if worst(group)[1]
    ]
    if rest:
        console.print(f"and {' and '.join(rest)}", highlight=False, soft_wrap=True)


def _rest(rest: Sequence[Finding], what: str) -> str:
    """What is said of those that are not among the worst."""
    most = max(rest, key=lambda one: one.relative / one.allowed)
    line = f"{len(rest)} more {what}, at most {most.relative:.1e} of {most.allowed:.0e}"
    if any(one.undecided for one in rest):
        one = max(rest, key=lambda one: one.undecided)
        line += f", undecided in at most {one.undecided} of {one.values}"
    wrong = sum(not one.holds for one in rest)
    return line + (f"; {wrong} of them do not agree" if wrong else "")
