"""What becomes of a batch that fails: it is run again in halves, down to the records to blame.

A record that fails alone is rejected if another one can still be measured. If not, it is the model,
the memory or the device that is to blame, and the run breaks off without rejecting anything for it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import pyarrow as pa

from streamer.batches import Batch, Result, Window, Work
from streamer.computing.worker import NOT_FINITE, InFlight, Worker, reject
from streamer.concurrency.events import Log, ignore
from streamer.device.errors import is_device_error, is_out_of_memory, release
from streamer.device.traits import traits_of
from streamer.errors import RunFault, StreamerError, one_line
from streamer.records import Counts, TokenizedRecord

T = TypeVar("T")
HOPELESS = 32
"""So many records, and a whole window, may fail before one is measured: then it is unlikely to be
them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a batch could not be measured. Not the error itself, whose traceback holds tensors."""

    text: str
    out_of_memory: bool = False


class FaultIsolation:
    """The batches of one run, on a worker: what fails of them is run again in halves.

    Used from the worker's thread. `feed` batches, `drain` where nothing else is to be done
    meanwhile, and `finish`; or `process` one by itself. All of them raise a `RunFault` if it is not
    because of the records that they could not be measured.
    """

    def __init__(
        self, worker: Worker, log: Log = ignore, on_progress: Callable[[], None] = ignore
    ) -> None:
        """`log` hears of every batch that is split. `on_progress` is called whenever something was
        run: a batch that is split takes long."""
        self.device = worker.model.device
        self._worker = worker
        self._log, self._on_progress = log, on_progress
        self._in_flight: deque[InFlight] = deque()
        """Oldest first."""
        self._known_good = worker.plain_record()
        """A record that can be measured, as far as anyone can tell."""
        self._has_measured = False
        self._failed = 0
        """Records that failed before the first was measured."""
        self._last_failure = "", ""
        """Why the last of them did, and what to do about it."""
        self._held: list[Result] = []
        """What is kept back until something has been measured."""

    def feed(self, batch: Batch) -> list[Result]:
        """Begin `batch`; the results that are there by now, of this or earlier batches.

        A device that runs ahead is given the next batch before the last one is waited for. For any
        other this waits for `batch`.
        """
        results = self._step(batch)
        if not traits_of(self.device).runs_ahead:
            results += self.drain()
        return results

    def drain(self) -> list[Result]:
        """Wait for all that was begun; the results."""
        results = []
        while self._in_flight:
            results += self._step()
        return results

    def finish(self) -> list[Result]:
        """Wait for all that was begun; the last results, when no more batches come."""
        results = self.drain()
        self._give_up_if_hopeless()
        return results + self._all_held()

    def process(self, batch: Batch) -> Result:
        """Wait for the numbers of every record of `batch`.

        What does not fit the memory, and what the model raises an error on, is split and run again,
        down to single records. A record that fails alone, or whose residual is not finite in
        float32 either, is rejected.
        """
        return self._attempt(batch, self._rescue)

    def _step(self, batch: Batch | None = None) -> list[Result]:
        """Take every batch a step further, the newest first, so that the device has work while the
        oldest is waited for. `batch` is the newest; its first step is to be launched."""
        done, failed = self._advance(batch)
        # what others hold must make neither a record fail alone nor the proof that it is to blame
        while self._in_flight and (failed or any(_has_lost_all(*one) for one in done)):
            more, too = self._advance(None)
            done, failed = done + more, failed + too
        results = [self._checked(*one) for one in done]
        results += [self._alone(*one) for one in failed]
        return self._passed_on(results)

    def _advance(
        self, newest: Batch | None
    ) -> tuple[list[tuple[Batch, Result]], list[tuple[Batch, Failure]]]:
        worker, before, self._in_flight = self._worker, self._in_flight, deque()
        done, failed = list[tuple[Batch, Result]](), list[tuple[Batch, Failure]]()
        if newest is not None:
            launched = _outcome(partial(worker.launch, newest))
            if isinstance(launched, Failure):
                failed.append((newest, launched))
            else:
                self._in_flight.append(launched)
        while before:
            one = before.pop()
            found = _outcome(partial(worker.advance, one))
            if isinstance(found, Failure):
                failed.append((one.batch, found))
            elif found is None:
                self._in_flight.appendleft(one)
            else:
                done.append((one.batch, found))
        return done, failed

    def _alone(self, batch: Batch, failure: Failure) -> Result:
        """What comes of `batch`, which failed beside others that are done now."""
        if len(batch.records) == 1:  # there are no halves to try: it may fit by itself
            return self._attempt(batch, self._rescue)
        return self._rescue(batch, failure)

    def _attempt(self, batch: Batch, otherwise: Callable[[Batch, Failure], Result]) -> Result:
        found = _outcome(partial(self._worker.process, batch))
        if isinstance(found, Failure):
            return otherwise(batch, found)
        return self._checked(batch, found)

    def _checked(self, batch: Batch, result: Result) -> Result:
        """`result` of `batch`, which was run.

        :raises RunFault: none of its records was measured, and not because of them.
        """
        self._on_progress()
        if result.records:
            self._has_measured = True
            self._known_good = max(result.records, key=lambda record: record.longest)
        elif _has_lost_all(batch, result):
            self._blame(batch.records, Failure(NOT_FINITE))
        return result

    def _rescue(self, batch: Batch, failure: Failure) -> Result:
        """What comes of `batch`, which failed whole."""
        row, records = batch.records[0].origin.row, len(batch.records)
        self._log("split", {"row": row, "records": records, "cause": failure.text})
        return self._split(batch, failure)

    def _split(self, batch: Batch, failure: Failure) -> Result:
        self._on_progress()
        if failure.out_of_memory:
            release(self.device)
        records = batch.records
        if len(records) > 1:
            middle = len(records) // 2
            halves = (
                self._worker.batch(batch.window, records[:middle], batch.rejections),
                self._worker.batch(batch.window, records[middle:]),
            )
            first, second = (self._attempt(half, self._split) for half in halves)
            return _together(first, second, failure)
        self._blame(records, failure)
        reason, work = failure.text, Work(Counts(model_errors=1))
        if failure.out_of_memory:
            tokens = sum(map(len, records[0].tokens))
            reason, work = f"out of memory even alone: {tokens:,} tokens", Work(hopeless=1)
        rejections = (*batch.rejections, reject(records[0], reason))
        return self._worker.no_result(batch.window, rejections, work)

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
        proof = self._worker.batch(Window(0, 1), [self._known_good])
        found = _outcome(partial(self._worker.process, proof))
        if isinstance(found, Failure) or not found.records:
            raise RunFault(f"{where}, and then {known} failed as well. {advice}")

    def _passed_on(self, results: Sequence[Result]) -> list[Result]:
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

    def _all_held(self) -> list[Result]:
        held, self._held = self._held, []
        return held

    def _give_up_if_hopeless(self) -> None:
        if self._failed >= HOPELESS and not self._has_measured:
            where, advice = self._last_failure
            raise RunFault(
                f"{where}: none of the first {self._failed} records could be measured. {advice}"
            )


def _outcome(step: Callable[[], T]) -> T | Failure:
    """What `step` returns, or why it failed: not the error, whose traceback holds tensors.

    :raises StreamerError: as `step` does.
    :raises RunFault: the device is lost: nothing that is run on it would succeed.
    """
    try:
        return step()
    except StreamerError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            return Failure("out of memory", out_of_memory=True)
        if is_device_error(error):
            raise RunFault(
                f"the device failed: {one_line(error)}. This process cannot use it any more. "
                f"Resume the run: it goes on behind the last finished part"
            ) from error
        return Failure(f"the model raised {one_line(error)}")


def _has_lost_all(batch: Batch, result: Result) -> bool:
    """Whether none of the records of `batch` was measured."""
    return bool(batch.records) and not result.records


def _together(first: Result, second: Result, failure: Failure) -> Result:
    """The result of a batch that had that `failure`, from those of its halves."""
    split = Counts(out_of_memory_splits=1) if failure.out_of_memory else Counts(model_errors=1)
    return Result(
        first.window,
        (*first.records, *second.records),
        {
            name: pa.concat_tables([rows, second.tables[name]])
            for name, rows in first.tables.items()
        },
        (*first.rejections, *second.rejections),
        first.work + second.work + Work(split),
    )
