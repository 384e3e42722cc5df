"""Verifies all commits of a run in order: files, schemas, footers, rows and running counts.

If several shards wrote the run, they are verified in turn: each has its own numbers and running
counts, and its rows follow those of the shard before it.

Memory holds one row group, and the row numbers of one commit.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamer.manifest import Manifest
from streamer.results.check.parts import Damaged, Footer, Listing, OpenPart
from streamer.results.check.report import Report
from streamer.results.check.rows import Numbers, fault_of_order, fault_of_rows
from streamer.results.check.schemas import difference, schema_fault
from streamer.results.check.totals import Totals
from streamer.tables import Table
from streamer.writing.names import Part


@dataclass(frozen=True, slots=True)
class Reading:
    """What one part held."""

    rows: int
    footer: Footer | None
    numbers: Numbers | None
    """Its `row` column; None if not all of it could be read."""


class CommitAudit:
    """Goes through the commits in order and records faults in `report`."""

    def __init__(
        self,
        listing: Listing,
        tables: Sequence[Table],
        manifest: Manifest,
        report: Report,
        on_step: Callable[[str], Any],
    ) -> None:
        self._known = {table.name: table for table in tables}
        self._counted = {table.name: table.counted_as for table in tables if table.counted_as}
        """Tables that hold each input row once, and the name of their count."""
        self.totals = self._nothing()
        """Totals of the current shard."""
        self.gaps: list[str] = []
        """Shards that do not begin where the previous one ends: faults, if the run is finished."""
        self.parts = 0
        self._listing = listing
        self._leading = listing.leading
        self._manifest = manifest
        self._report = report
        self._on_step = on_step
        self._tables = {self._leading, *self._counted}
        """Names of the tables that the run has."""
        self._schemas: dict[str, tuple[str, pa.Schema]] = {}

    def run(self) -> Totals:
        """Verify every part; returns the totals of all commits."""
        every = self._nothing()
        for _, shard in itertools.groupby(sorted(self._listing.commits), lambda part: part.shard):
            self.totals = self._nothing(every.end_row)
            self._shard(list(shard))
            every.add(self.totals)
        self.totals = every
        for file in self._listing.strangers:
            table = file.rpartition("/")[0]
            if table in self._tables:
                self._report.footers.fault(
                    f"{file} is no part of the run, but readers of {table}/*.parquet take it for "
                    f"one"
                )
        return self.totals

    def _nothing(self, end_row: int | None = 0) -> Totals:
        return Totals(dict.fromkeys(self._counted.values(), 0), end_row)

    def _shard(self, parts: Sequence[Part]) -> None:
        """Verify the commits of one shard."""
        expected = 0
        for part in parts:
            if part.number > expected:
                name = f"{self._leading}/{part._replace(number=expected).file}"
                self._report.footers.fault(f"{name} is missing: the next part is {part.number:05d}")
                self._lose_count()
            self._commit(part)
            expected = part.number + 1

    def _lose_count(self) -> None:
        self.totals.end_row = None
        self.totals.held = dict.fromkeys(self.totals.held)

    def _commit(self, commit: Part) -> None:
        leading = self._read(self._leading, commit)
        footer = leading.footer if leading else None
        if footer is not None:
            self._tables |= footer.tables.keys()
        readings = {self._leading: leading} | {
            table: self._read(table, commit)
            for table, parts in self._listing.tables.items()
            if table != self._leading and commit in parts
        }
        if footer is None:
            self._lose_count()
            return
        self._chain(commit, footer)
        self._tables_of(commit, footer, readings)
        self._rows_of(commit, footer, readings)
        self._count(commit, footer, readings)

    def _read(self, table: str, commit: Part) -> Reading | None:
        """A part decoded whole; None if it cannot be opened or is not the run's."""
        name, report = self._listing.tables[table][commit], self._report
        self._on_step(name)
        try:
            part = OpenPart(self._listing.storage, name)
        except Damaged as error:
            if table in self._tables:
                report.files.fault(f"{name} {error}")
            return None
        with part:
            if table not in self._tables and not part.is_ours:
                return None  # a directory of somebody else's
            self.parts += 1
            footer = numbers = None
            try:
                footer = part.footer()
            except Damaged as error:
                report.footers.fault(f"{name}: {error}")
            if self._same_schema(table, name, part.schema):
                try:
                    numbers = self._decode(table, part)
                except Damaged as error:
                    report.files.fault(f"{name}: {error}")
            return Reading(part.rows, footer, numbers)

    def _decode(self, table: str, part: OpenPart) -> Numbers:
        found = [np.empty(0, np.int64)]
        for group in part.row_groups():
            if group["row"].null_count:
                raise Damaged("has rows without number")
            found.append(group["row"].to_numpy())
            if table in self._counted:
                if group["source"].null_count:
                    raise Damaged("has rows without source")
                for entry in pc.value_counts(group["source"].combine_chunks()).to_pylist():
                    self.totals.sources[entry["values"]] += entry["counts"]
        return np.concatenate(found)

    def _same_schema(self, table: str, name: str, schema: pa.Schema) -> bool:
        """Whether the part has the columns of its table; if not, a fault is recorded."""
        if table in self._schemas:
            first, reference = self._schemas[table]
            fault = difference(schema, reference) and (
                f"its columns differ from those of {first}: {difference(schema, reference)}"
            )
        else:
            fault = schema_fault(table, self._known.get(table), schema, self._manifest)
            if not fault:
                self._schemas[table] = (name, schema)
        if fault:
            self._report.schemas.fault(f"{name}: {fault}")
        return not fault

    def _chain(self, commit: Part, footer: Footer) -> None:
        """Verify that its rows begin where those of the previous commit end."""
        before = self.totals.end_row
        if before is not None and footer.first_row != before:
            fault = (
                f"{self._leading}/{commit.file} begins with row {footer.first_row:,}, "
                f"but the parts before it end with row {before:,}"
            )
            if commit.shard and commit.number == 0 and footer.first_row > before:
                self.gaps.append(fault)
                self.totals.unwritten = footer.first_row - before
            else:
                self._report.footers.fault(fault)
        self.totals.end_row = footer.end_row

    def _tables_of(self, part: Part, footer: Footer, readings: dict[str, Reading | None]) -> None:
        """Verify that the commit has exactly the parts in its footer, with as many rows."""
        fault = self._report.footers.fault
        commit = f"{self._leading}/{part.file}"
        for table in sorted({*footer.tables, *readings}):
            name, expected = f"{table}/{part.file}", footer.tables.get(table, 0)
            reading = readings.get(table)
            if table not in readings:
                if expected or part.number == 0:  # the first commit has a part of every table
                    fault(f"{name} is missing: {commit} says that it has {expected:,} rows")
            elif reading is not None and reading.rows != expected:
                fault(f"{name} has {reading.rows:,} rows; the footer of {commit} says {expected:,}")
            elif reading is not None and reading.footer not in (None, footer):
                fault(f"{name} does not belong to {commit}: their footers differ")

    def _rows_of(self, commit: Part, footer: Footer, readings: dict[str, Reading | None]) -> None:
        """Verify that each row of the commit is in one of the counted tables, once and in order."""
        counted: dict[str, Numbers] = {}
        hidden = False
        for table, reading in readings.items():
            if reading is None or reading.numbers is None:
                hidden |= table in self._counted  # reported as a fault of the file
                continue
            name = f"{table}/{commit.file}"
            if table in self._counted:
                counted[name] = reading.numbers
            elif fault := fault_of_order(
                name, footer.first_row, footer.end_row, reading.numbers, step=0
            ):
                self._report.rows.fault(fault)
        if not hidden and (fault := fault_of_rows(footer.first_row, footer.end_row, counted)):
            self._report.rows.fault(fault)

    def _count(self, commit: Part, footer: Footer, readings: dict[str, Reading | None]) -> None:
        """Verify that the footer's running counts are what the parts up to here hold."""
        held, counts = self.totals.held, footer.counts
        is_hidden = None in held.values() or any(
            readings.get(table) is None and footer.tables.get(table) for table in self._counted
        )
        for table, name in self._counted.items():
            recorded, before = counts.get(name), held[name]
            if is_hidden or before is None:
                held[name] = recorded if isinstance(recorded, int) else None
                continue
            reading = readings.get(table)
            held[name] = before + (reading.rows if reading else 0)
            if recorded != held[name]:
                self._report.counts.fault(
                    f"{self._leading}/{commit.file}: its footer counts {recorded} {name} up "
                    f"to here, the parts hold {held[name]}"
                )
