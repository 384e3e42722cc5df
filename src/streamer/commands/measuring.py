"""The numbers of a sample, one text at a time and in the batches that `streamer run` would run."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamer.batches import Result, Window
from streamer.commands.residuals import RESIDUALS, Residuals, residuals_in
from streamer.commands.sample import good_ones
from streamer.computing.fault_isolation import FaultIsolation
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.device.errors import is_device_error
from streamer.errors import RunFault, StreamerError, UsageError, one_line
from streamer.records import Chunk, TokenizedRecord
from streamer.running.notes import faint_note
from streamer.running.session import planner_for
from streamer.tables import metrics_of

Numbers: TypeAlias = npt.NDArray[np.float64]
Values: TypeAlias = Mapping[str, Numbers]
"""By column, of each record; NaN for null, and of a class its number."""
EXACT = metrics_of(exact=True)
TO_COMPARE = (EXACT, RESIDUALS)
"""The tables that a worker must make rows of to be measured here."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Of all good records of a sample, in input order."""

    values: Values
    residuals: Residuals
    """NaN for a record that was rejected."""
    notes: tuple[str, ...] = ()
    """What a run would tell of it at its end."""


def alone(worker: Worker, chunks: Sequence[Chunk]) -> Measured:
    """One text at a time.

    :raises UsageError: every record was rejected.
    :raises RunFault: the device failed.
    """
    return _in_order(worker, chunks, [_alone(worker, record) for record in good_ones(chunks)])


def _alone(worker: Worker, record: TokenizedRecord) -> Result:
    """What comes of `record`: nothing, if the model fails on it. Its batch did, too, and then it
    was rejected; if not, it is a difference."""
    try:
        return worker.alone(record)
    except StreamerError:
        raise
    except Exception as error:
        if is_device_error(error):
            raise RunFault(f"the device failed: {one_line(error)}") from error
        return worker.no_result(Window(0, 1), ())


def in_batches(worker: Worker, chunks: Sequence[Chunk], config: RunConfig) -> Measured:
    """From the batches that a run of `config` would run: its planner gathers `chunks`, with what is
    rejected in them, into windows, cuts those, and learns how long each batch took; and as many are
    on their way at once. Where windows depend on when records come, they come before the device
    waits for them.

    :raises UsageError: every record was rejected.
    :raises RunFault: as in a run.
    """
    computing, planner = FaultIsolation(worker), planner_for(config, worker)
    results: list[Result] = []
    busy = 0.0

    def compute(work: Callable[[], Sequence[Result]]) -> None:
        nonlocal busy
        begin = time.perf_counter()
        done = work()
        seconds = time.perf_counter() - begin
        busy += seconds
        for result in done:
            planner.budget.measured(result.work, seconds / len(done))
        results.extend(done)

    def hand_over(*, at_end: bool = False) -> None:
        for batch in planner.cut(at_end=at_end):
            compute(partial(computing.feed, batch))

    for chunk in chunks:
        planner.add(chunk)
        done = sum(len(result.records) + len(result.rejections) for result in results)
        per_second = done / max(busy, 1e-9)
        if planner.is_full(per_second) or (not done and planner.fills_a_batch()):
            hand_over()
    hand_over(at_end=True)
    compute(computing.finish)
    return _in_order(worker, chunks, results, _notes(worker, results, config))


def _notes(worker: Worker, results: Sequence[Result], config: RunConfig) -> tuple[str, ...]:
    faint = sum(result.work.faint for result in results)
    passages = sum(len(result.records) for result in results) * len(worker.passages)
    found = [faint_note(config, faint, passages)] if 2 * faint > passages else []
    return (*found, *worker.caveats)


def _in_order(
    worker: Worker,
    chunks: Sequence[Chunk],
    results: Sequence[Result],
    notes: tuple[str, ...] = (),
) -> Measured:
    """What is in `results`, in the order of the good records of `chunks`."""
    tables = {
        table.name: pa.concat_tables([result.tables[table.name] for result in results])
        for table in TO_COMPARE
    }
    rows = tables[EXACT.name]
    if not rows.num_rows:
        raise UsageError(
            "every record was rejected: `streamer run` writes the reasons to RUN/rejected"
        )
    index_of = {record.origin.row: index for index, record in enumerate(good_ones(chunks))}

    def ordered(numbers: Numbers, of: pa.Table) -> Numbers:
        order = [index_of[row] for row in of["row"].to_pylist()]
        found = np.full((len(index_of), *numbers.shape[1:]), np.nan)
        found[order] = numbers
        return found

    taken = tables[RESIDUALS.name]
    residuals = residuals_in(taken, len(worker.passages))
    return Measured(
        {column.name: ordered(_numbers(rows[column.name]), rows) for column in worker.columns},
        {name: ordered(residual, taken) for name, residual in residuals.items()},
        notes,
    )


def _numbers(column: pa.ChunkedArray) -> Numbers:
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.indices
    numbers: Numbers = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers
