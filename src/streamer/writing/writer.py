"""The writing stage: takes results in any order within a window, writes tables in input order."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from streamer.batches import Result
from streamer.config import RunConfig
from streamer.records import Origin, Position
from streamer.writing.commit import POSITIONS, Checkpoint, WrittenTable, commit
from streamer.writing.names import WHOLE, Names
from streamer.writing.parts import PartWriter
from streamer.writing.storage.base import Storage, write_fault


class Writer:
    """Writes the tables of one run directory, one of which leads.

    A part of each is closed at the same row (see `commit`), so that together they are a checkpoint:
    the footers hold the input rows they cover, where reading goes on, and the totals so far.
    """

    def __init__(
        self,
        storage: Storage,
        config: RunConfig,
        tables: Sequence[WrittenTable],
        *,
        on_part: Callable[[str, dict[str, Any]], None],
        begin: Checkpoint,
        names: Names = WHOLE,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        """`begin`: the last checkpoint. `names`: a shard's, if several write to `storage`.
        `origin`: what the numbers come from, for the footers."""
        self.counts = begin.counts
        """Of what was written."""
        self.committed = begin.counts
        """Of what is in finished parts."""
        self._location = storage.location
        size, number = config.row_group_rows, begin.number
        self._parts = {
            table.name: PartWriter(storage, table.name, table.schema, size, number, names=names)
            for table in sorted(tables, key=lambda table: table.leads)  # that one last
        }
        self._config = config
        self._on_part = on_part
        self._origin = {"origin": dict(origin)} if origin else {}
        self._waiting: dict[int, list[Result]] = {}
        self._next_window = 0
        self._number = begin.number
        self._first_row = self._end_row = begin.row
        self._positions = {position.key: position for position in begin.positions}
        self._opened = time.monotonic()

    def add(self, result: Result) -> list[dict[str, pa.Table]]:
        """Take a result; when that makes the next windows whole, write them.

        Returns what was written of each window, by the name of the table.

        :raises RunFault: they could not be written. Earlier parts stay.
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
        """Close the parts if they are due, even if no rows come. Call it regularly.

        :raises RunFault: they could not be written.
        """
        try:
            self._commit_if_due()
        except OSError as error:
            raise write_fault(self._location, error) from error

    def close(self) -> None:
        """Finish what is open. Each table ends with at least one part, empty if need be. Windows
        that are not whole are dropped: a run that goes on begins with them.

        :raises RunFault: they could not be written.
        """
        try:
            if self._end_row > self._first_row or self._number == 0:
                self._commit()
        except OSError as error:
            raise write_fault(self._location, error) from error

    def abandon(self) -> None:
        """Leave only finished parts behind."""
        for parts in self._parts.values():
            parts.abandon()

    def _whole_window(self) -> list[Result] | None:
        results = self._waiting.get(self._next_window, [])
        have = sum(len(result.records) + len(result.rejections) for result in results)
        if not results or have < results[0].window.rows:
            return None
        del self._waiting[self._next_window]
        self._next_window += 1
        return results

    def _write(self, window: Sequence[Result]) -> dict[str, pa.Table]:
        if self._end_row == self._first_row:
            self._opened = time.monotonic()
        written = {}
        for name, parts in self._parts.items():
            written[name] = _in_input_order([result.tables[name] for result in window])
            parts.append(written[name])
        self.counts = sum((result.counts for result in window), self.counts)
        origins = [one.origin for result in window for one in result.records]
        origins += [one.origin for result in window for one in result.rejections]
        self._go_on_behind(origins)
        self._end_row += len(origins)
        return written

    def _go_on_behind(self, origins: Sequence[Origin]) -> None:
        if self._config.follow:
            last = {one.key: one for one in sorted(origins, key=_row)}
            self._positions |= {key: Position.behind(origin) for key, origin in last.items()}
        else:
            end = max(origins, key=_row)
            self._positions = {end.key: Position.behind(end)}

    @property
    def is_due(self) -> bool:
        """Whether the open parts should be closed."""
        config, rows = self._config, self._end_row - self._first_row
        return rows > 0 and (
            rows >= config.part_rows
            or sum(parts.bytes for parts in self._parts.values()) >= config.part_bytes
            or time.monotonic() - self._opened >= config.part_seconds
        )

    def _commit_if_due(self) -> None:
        if self.is_due:
            self._commit()

    def _commit(self) -> None:
        covers = {"first_row": self._first_row, "end_row": self._end_row}
        positions = [asdict(position) for position in self._positions.values()]
        tables = tuple(self._parts.values())
        rows = {parts.table: parts.rows for parts in tables}
        counts = {"counts": asdict(self.counts)}
        commit(self._number, tables, covers | {POSITIONS: positions} | counts | self._origin)
        self.committed = self.counts
        self._on_part("committed", {"number": self._number, "rows": rows, **covers})
        self._number += 1
        self._first_row = self._end_row
        for parts in tables:
            parts.begin(self._number)


def _in_input_order(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all `tables` by their input row; those of one input row stay in their order."""
    table = pa.concat_tables(tables)
    row = table["row"].to_numpy()
    if (np.diff(row) >= 0).all():
        return table
    # one chunk a column: taking from many chunks costs a search for every value
    table = table.unify_dictionaries().combine_chunks()
    return table.take(np.argsort(row, kind="stable"))


def _row(origin: Origin) -> int:
    return origin.row
