"""The writing stage: results in any order within a window in, both tables in input order out."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from streamer.config import RunConfig
from streamer.records import Column, Origin, Position, Rejection, Result, TokenizedRecord
from streamer.tables.metrics.table import metrics_table
from streamer.tables.rejected import REJECTED, rejected_table
from streamer.writing.commit import Checkpoint, commit
from streamer.writing.names import WHOLE, Names
from streamer.writing.parts import PartWriter
from streamer.writing.storage.base import Storage, write_fault

COUNTED = (
    "records",
    "rows",
    "rejected",
    "truncated",
    "tokens",
    "tokens_run",
    "reruns_in_float32",
    "out_of_memory_splits",
    "model_errors",
)


class Writer:
    """Writes `metrics/` and `rejected/` of one run directory.

    A part of each is closed at the same row (see `commit`), so that together they are a checkpoint:
    the footers say which input rows they cover, where reading goes on, and the totals so far.
    """

    def __init__(
        self,
        storage: Storage,
        config: RunConfig,
        schema: pa.Schema,
        *,
        columns: Sequence[Column],
        on_part: Callable[[str, dict[str, Any]], None],
        begin: Checkpoint,
        names: Names = WHOLE,
    ) -> None:
        """`begin`: what is there already. `names`: those of a shard, if others write to `storage`
        at the same time."""
        self.counts = Counter(dict.fromkeys(COUNTED, 0) | dict(begin.counts))
        """What was written, as the manifest names it,"""
        self.committed = dict(self.counts)
        """and of that, what is in finished parts."""
        self.reasons: Counter[str] = Counter()
        self._location = storage.location
        size, number = config.row_group_rows, begin.number
        self._metrics = PartWriter(storage, "metrics", schema, size, number, names=names)
        self._rejected = PartWriter(storage, "rejected", REJECTED, size, number, names=names)
        self._columns = columns
        self._config = config
        self._on_part = on_part
        self._waiting: dict[int, list[Result]] = {}
        self._next_window = 0
        self._number = begin.number
        self._first_row = self._end_row = begin.row
        self._places = {place.key: place for place in begin.places}
        self._opened = time.monotonic()

    def add(self, result: Result) -> list[pa.Table]:
        """Take a result; when that makes the next windows whole, write them.

        Returns the tables of metrics that were written.

        :raises RunFault: the disk did not take them. What earlier parts hold stays.
        """
        self._waiting.setdefault(result.window.index, []).append(result)
        written = []
        try:
            while (window := self._whole_window()) is not None:
                written.append(self._write(window))
                self._commit_if_due()
        except OSError as error:
            raise write_fault(self._location, error) from error
        return written

    def tick(self) -> None:
        """Close the parts if they are due, though no rows come. Call it now and then.

        :raises RunFault: the disk did not take them.
        """
        try:
            self._commit_if_due()
        except OSError as error:
            raise write_fault(self._location, error) from error

    def close(self) -> None:
        """Finish what is open. Each table ends with at least one part, empty if need be. Windows
        that are not whole are dropped: a run that goes on begins with them.

        :raises RunFault: the disk did not take it.
        """
        try:
            if self._end_row > self._first_row or self._number == 0:
                self._commit()
        except OSError as error:
            raise write_fault(self._location, error) from error

    def abandon(self) -> None:
        """Leave only finished parts behind."""
        self._metrics.abandon()
        self._rejected.abandon()

    def _whole_window(self) -> list[Result] | None:
        results = self._waiting.get(self._next_window, [])
        have = sum(len(result.records) + len(result.rejections) for result in results)
        if not results or have < results[0].window.rows:
            return None
        del self._waiting[self._next_window]
        self._next_window += 1
        return results

    def _write(self, window: Sequence[Result]) -> pa.Table:
        records = [record for result in window for record in result.records]
        values = np.concatenate([result.values for result in window])
        order = sorted(range(len(records)), key=lambda place: records[place].origin.row)
        table = metrics_table(
            [records[place] for place in order], values[order], self._columns, self._metrics.schema
        )
        rejections: list[Rejection] = [one for result in window for one in result.rejections]
        rejections.sort(key=lambda rejection: rejection.origin.row)
        if self._end_row == self._first_row:
            self._opened = time.monotonic()
        self._metrics.append(table)
        self._rejected.append(rejected_table(rejections))
        self._count(records, rejections, window)
        origins = [one.origin for one in records] + [one.origin for one in rejections]
        self._go_on_behind(origins)
        self._end_row += len(origins)
        return table

    def _go_on_behind(self, origins: Sequence[Origin]) -> None:
        if self._config.follow:
            last = {one.key: one for one in sorted(origins, key=_row)}
            self._places |= {key: Position.behind(origin) for key, origin in last.items()}
        else:
            end = max(origins, key=_row)
            self._places = {end.key: Position.behind(end)}

    def _count(
        self,
        records: Sequence[TokenizedRecord],
        rejections: Sequence[Rejection],
        window: Sequence[Result],
    ) -> None:
        work = [result.work for result in window]
        new = {
            "records": len(records) + len(rejections),
            "rows": len(records),
            "rejected": len(rejections),
            "truncated": sum(record.truncated for record in records),
            "tokens": sum(one.tokens for one in work),
            "tokens_run": sum(one.distinct for one in work),
            "reruns_in_float32": sum(one.reruns for one in work),
            "out_of_memory_splits": sum(one.splits for one in work),
            "model_errors": sum(one.faults for one in work),
        }
        self.counts.update(new)
        self.reasons.update(rejection.reason.partition(":")[0] for rejection in rejections)

    @property
    def is_due(self) -> bool:
        """Whether the open parts should be closed."""
        config, rows = self._config, self._end_row - self._first_row
        return rows > 0 and (
            rows >= config.part_rows
            or self._metrics.bytes + self._rejected.bytes >= config.part_bytes
            or time.monotonic() - self._opened >= config.part_seconds
        )

    def _commit_if_due(self) -> None:
        if self.is_due:
            self._commit()

    def _commit(self) -> None:
        covers = {"first_row": self._first_row, "end_row": self._end_row}
        places = [asdict(place) for place in self._places.values()]
        tables = (self._rejected, self._metrics)
        rows = {parts.table: parts.rows for parts in tables}
        commit(self._number, tables, covers | {"places": places, "counts": dict(self.counts)})
        self.committed = dict(self.counts)
        self._on_part("committed", {"number": self._number, "rows": rows, **covers})
        self._number += 1
        self._first_row = self._end_row
        for parts in tables:
            parts.begin(self._number)


def _row(origin: Origin) -> int:
    return origin.row
