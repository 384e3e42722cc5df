"""The writing stage: results in any order within a window in, both tables in input order out."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from streamer.config import RunConfig
from streamer.errors import RunFault
from streamer.records import Column, Origin, Rejection, Result
from streamer.writing.parts import PartWriter
from streamer.writing.schema import REJECTED, metrics_table, rejected_table


class Writer:
    """Writes `metrics/` and `rejected/` of one run directory.

    A part of each is closed at the same row, so that together they are a checkpoint: the footers
    say which input rows they cover and where reading would go on.
    """

    def __init__(
        self,
        directory: Path,
        config: RunConfig,
        schema: pa.Schema,
        columns: Sequence[Column],
        on_part: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self.rows = 0
        self.rejected = 0
        self.reasons: Counter[str] = Counter()
        self._metrics = PartWriter(directory / "metrics", schema, config.row_group_rows)
        self._rejected = PartWriter(directory / "rejected", REJECTED, config.row_group_rows)
        self._columns = columns
        self._config = config
        self._on_part = on_part
        self._waiting: dict[int, list[Result]] = {}
        self._next_window = 0
        self._first_row = 0
        self._last: Origin | None = None
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
                if self._is_due():
                    self._close_parts()
        except OSError as error:
            raise RunFault(
                f"writing to {self._metrics.directory.parent} failed: {error}. What was "
                f"finished before is kept."
            ) from error
        return written

    def close(self) -> None:
        """Finish what is open. Each table ends with at least one part, empty if need be.

        :raises RunFault: the disk did not take it.
        """
        try:
            self._close_parts(at_end=True)
        except OSError as error:
            raise RunFault(
                f"writing to {self._metrics.directory.parent} failed: {error}"
            ) from error

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
        if not self._metrics.rows + self._rejected.rows:
            self._opened = time.monotonic()
        self._metrics.append(table)
        self._rejected.append(rejected_table(rejections))
        self.rows += len(records)
        self.rejected += len(rejections)
        self.reasons.update(rejection.reason.partition(":")[0] for rejection in rejections)
        origins = [one.origin for one in records] + [one.origin for one in rejections]
        self._last = max(origins, key=lambda origin: origin.row)
        return table

    def _is_due(self) -> bool:
        config = self._config
        return (
            max(self._metrics.rows, self._rejected.rows) >= config.part_rows
            or self._metrics.bytes + self._rejected.bytes >= config.part_bytes
            or time.monotonic() - self._opened >= config.part_seconds
        )

    def _close_parts(self, at_end: bool = False) -> None:
        end_row = self.rows + self.rejected
        if end_row == self._first_row and not (at_end and self._metrics.is_empty):
            return
        covers = {
            "first_row": self._first_row,
            "end_row": end_row,
            "source": self._last.source if self._last else None,
            "offset": self._last.end if self._last else 0,
            "position": self._last.position + 1 if self._last else 0,
            "ended": at_end,
            "tables": {"metrics": self._metrics.rows, "rejected": self._rejected.rows},
            "counts": {"records": end_row, "rows": self.rows, "rejected": self.rejected},
        }
        for table, parts in (("rejected", self._rejected), ("metrics", self._metrics)):
            if not parts.rows and table != "metrics":
                parts.skip()
                continue
            rows = parts.rows
            path = parts.close(covers)
            self._on_part("part closed", {"table": table, "part": path.name, "rows": rows} | covers)
        self._first_row = end_row
