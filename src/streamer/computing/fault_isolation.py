"""What becomes of a batch that fails: it is run again in halves, down to the records to blame.

A record that fails alone is rejected if another one can still be measured. If not, it is the model,
the memory or the device that is to blame, and the run breaks off without rejecting anything for it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from streamer.device.errors import is_device_error, is_out_of_memory, release
from streamer.errors import RunFault, StreamerError, one_line
from streamer.records import Batch, Rejection, Result, TokenizedRecord, Window, Work

Log = Callable[[str, dict[str, Any]], None]
HOPELESS = 32
"""So many records, and a whole window, may fail before one is measured: then it is unlikely to be
them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a batch could not be measured. Not the error itself, whose traceback holds tensors."""

    text: str
    out_of_memory: bool = False


NOT_FINITE = Failure("the model's residual is not finite, in float32 either")


def failure_of(error: Exception) -> Failure:
    """What to know of an `error` that a batch raised, to split it.

    :raises StreamerError: `error` itself, if it is one.
    :raises RunFault: the device is lost: nothing that is run on it would succeed.
    """
    if isinstance(error, StreamerError):
        raise error
    if is_out_of_memory(error):
        return Failure("out of memory", out_of_memory=True)
    if is_device_error(error):
        raise RunFault(
            f"the device failed: {one_line(error)}. This process cannot use it any more. Resume "
            f"the run: it goes on behind the last finished part"
        ) from error
    return Failure(f"the model raised {one_line(error)}")


def nobody(*_: object) -> None:
    """Hears of it."""


class FaultIsolation:
    """Runs batches, and in halves what fails of them. Used from the worker's thread."""

    def __init__(
        self,
        run: Callable[[Batch], Result],
        pack: Callable[[Window, tuple[TokenizedRecord, ...], tuple[Rejection, ...]], Batch],
        device: torch.device,
        plain: TokenizedRecord,
        columns: int,
    ) -> None:
        """`plain`: a record that can be measured, as far as anyone can tell."""
        self._run = run
        self._pack = pack
        self._device = device
        self._no_values = np.empty((0, columns))
        self._plain = plain
        self.begin(nobody, nobody)

    def begin(self, log: Log, on_progress: Callable[[], None]) -> None:
        """Forget what was before. From now on, `log` hears of every batch that is split, and
        `on_progress` is called whenever something was run: a batch that is split takes long."""
        self._log, self._on_progress = log, on_progress
        self._known_good = self._plain
        self._has_measured = False
        self._failed = 0
        """Records that failed before the first was measured,"""
        self._last_failure = "", ""
        """and why the last of them did, and what to do about it."""
        self._held: list[Result] = []

    def attempt(self, batch: Batch) -> Result:
        """What comes of `batch`, run whole or in parts.

        :raises RunFault: not because of its records.
        """
        return self._attempt(batch, self.rescue)

    def passed(self, batch: Batch, result: Result) -> Result:
        """`result` of `batch`, which was run.

        :raises RunFault: none of its records was measured, and not because of them.
        """
        self._on_progress()
        if result.records:
            self._has_measured = True
            self._known_good = max(result.records, key=lambda record: record.longest)
        elif batch.records:
            self._blame(batch.records, NOT_FINITE)
        return result

    def rescue(self, batch: Batch, failure: Failure) -> Result:
        """What comes of `batch`, which failed.

        :raises RunFault: not because of its records.
        """
        row, records = batch.records[0].origin.row, len(batch.records)
        self._log("split", {"row": row, "records": records, "cause": failure.text})
        return self._split(batch, failure)

    def _attempt(self, batch: Batch, otherwise: Callable[[Batch, Failure], Result]) -> Result:
        try:
            result = self._run(batch)
        except Exception as error:
            failure = failure_of(error)
        else:
            return self.passed(batch, result)
        return otherwise(batch, failure)  # not in the handler, whose traceback holds the tensors

    def _split(self, batch: Batch, failure: Failure) -> Result:
        self._on_progress()
        if failure.out_of_memory:
            release(self._device)
        records = batch.records
        if len(records) > 1:
            middle = len(records) // 2
            halves = ((records[:middle], batch.rejections), (records[middle:], ()))
            packed = [self._pack(batch.window, *half) for half in halves]
            first, second = (self._attempt(half, self._split) for half in packed)
            return _together(first, second, failure)
        self._blame(records, failure)
        reason, work = failure.text, Work(faults=1)
        if failure.out_of_memory:
            tokens = sum(map(len, records[0].tokens))
            reason, work = f"out of memory even alone: {tokens:,} tokens", Work(hopeless=1)
        rejected = (*batch.rejections, reject(records[0], reason))
        return Result(batch.window, (), self._no_values, rejected, work)

    def told(self, results: Sequence[Result]) -> list[Result]:
        """Those of `results`, and of earlier ones, that can be passed on. Until something has been
        measured, what the model rejected is kept back: a run that breaks off rejects none of it.

        :raises RunFault: too many records failed, and none was measured.
        """
        self._held += results
        if not self._failed or self._has_measured:
            return self._all_held()
        if any(result.window != self._held[0].window for result in self._held):
            self._give_up_if_hopeless()
        return []

    def last(self) -> list[Result]:
        """What has not been passed on, when no more comes.

        :raises RunFault: too many records failed, and none was measured.
        """
        self._give_up_if_hopeless()
        return self._all_held()

    def _all_held(self) -> list[Result]:
        held, self._held = self._held, []
        return held

    def _give_up_if_hopeless(self) -> None:
        if self._failed >= HOPELESS and not self._has_measured:
            where, advice = self._last_failure
            raise RunFault(
                f"{where}: none of the first {self._failed} records could be measured. {advice}"
            )

    def _blame(self, records: Sequence[TokenizedRecord], failure: Failure) -> None:
        """Return if it is because of the `records` that they failed.

        :raises RunFault: it is not.
        """
        origin = records[0].origin
        where = f"{failure.text} (at record {origin.position} of {origin.source})"
        advice = "Look at the model and its device, and run again: no record was rejected for it"
        if failure.out_of_memory:
            advice = (
                "Give the device more free memory, take another --device or a smaller model, and "
                "run again: no record was rejected for it"
            )
        if not self._has_measured:
            self._failed += len(records)
            self._last_failure = where, advice
        known = "a record that was measured before" if self._has_measured else "a few plain tokens"
        try:
            fails = not self._run(self._pack(Window(0, 1), (self._known_good,), ())).records
        except Exception as error:
            failure_of(error)  # raises if the device is lost
            fails = True
        if fails:
            raise RunFault(f"{where}, and then {known} failed as well. {advice}")


def reject(record: TokenizedRecord, reason: str) -> Rejection:
    """`record`, rejected."""
    return Rejection(record.origin, reason, record.raw, len(record.raw))


def _together(first: Result, second: Result, failure: Failure) -> Result:
    """The result of a batch that had that `failure`, from those of its halves."""
    work = first.work + second.work
    if failure.out_of_memory:
        work = dataclasses.replace(work, splits=work.splits + 1)
    else:
        work = dataclasses.replace(work, faults=work.faults + 1)
    return Result(
        first.window,
        (*first.records, *second.records),
        np.concatenate([first.values, second.values]),
        (*first.rejections, *second.rejections),
        work,
    )
