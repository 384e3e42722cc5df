"""The commit protocol: the parts of all tables for a range of rows count together, or none does.

A commit has a number n and covers input rows [first_row, end_row). Each table that has rows for it
writes part n under a temporary name; when all are on the disk, they are renamed one after another,
the leading table last, of which every commit has a part, an empty one if need be. **A commit
exists if the leading table's part does.** Until then a crash leaves temporary files and parts of
other tables that belong to no commit; `tidy` removes both, and the work is done again.

    finish every part: footer, fsync                  nothing is visible
    rename the other tables' parts, fsync directory   parts of no commit, if it ends here
    rename the leading table's part                   the commit exists, in memory
    fsync its directory                               the commit exists
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from streamer.errors import RunFault
from streamer.records import Position
from streamer.writing.fault_points import reached
from streamer.writing.parts import TEMPORARY, PartWriter, part_name, read_metadata
from streamer.writing.storage.local import write_fault

LEADING = "metrics"
PART = re.compile(r"part-(\d{5,})\.parquet")
REPLACED = re.compile(rf"{PART.pattern}|(manifest|status)\.json")
"""The files that are written under a temporary name."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run stands: what the footer of its last commit says."""

    number: int = 0
    """Of the next commit."""
    row: int = 0
    """The first input row that no commit covers."""
    places: tuple[Position, ...] = ()
    """Where reading goes on: of the last source, or of each where they are followed."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Totals of all commits, as in the manifest."""


def commit(number: int, tables: Sequence[PartWriter], metadata: Mapping[str, Any]) -> None:
    """Make the open parts of `tables` visible together; the last of `tables` leads.

    A table without rows has no part, but for the leading one and in commit 0, so that every table
    can be read.

    :raises OSError: it could not be written. Then it does not exist.
    """
    *others, leading = tables
    rows = {parts.directory.name: parts.rows for parts in tables}
    written = [parts for parts in others if parts.rows or number == 0] + [leading]
    for parts in written:
        parts.finish({**metadata, "tables": rows})
        reached(f"{number} finished {parts.directory.name}")
    for parts in written:
        parts.publish()


def read_checkpoint(directory: Path) -> Checkpoint:
    """The state of the run in `directory`, from its last commit.

    :raises RunFault: the part of the last commit is damaged.
    """
    last = max(_parts(directory / LEADING).items(), default=None)
    if last is None:
        return Checkpoint()
    number, path = last
    try:
        footer = read_metadata(path)
        places = tuple(Position(**place) for place in footer["places"])
        return Checkpoint(number + 1, footer["end_row"], places, footer["counts"])
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise RunFault(
            f"{path} is damaged: {error}. `streamer check {directory}` says more; without this "
            f"file and those of the same number in the other tables, the run goes on before it."
        ) from None


def temporary_files(directory: Path) -> list[Path]:
    """Files in the run directory that were not given their names."""
    found = [*directory.glob(f"*{TEMPORARY}"), *directory.glob(f"*/part-*{TEMPORARY}")]
    return sorted(path for path in found if REPLACED.fullmatch(path.name.removesuffix(TEMPORARY)))


def orphans(directory: Path) -> list[Path]:
    """Parts in the run directory that belong to no commit: they are beyond the last one."""
    committed, last = max(_parts(directory / LEADING).items(), default=(-1, None))
    tables = _metadata(last).get("tables", {}) if last else {}
    return [
        path
        for table in sorted(directory.iterdir())
        if table.is_dir() and table.name != LEADING
        for number, path in sorted(_parts(table).items())
        if number > committed and (table.name in tables or _metadata(path))
    ]


def tidy(directory: Path) -> list[Path]:
    """Remove `temporary_files` and `orphans`, whose rows are done again; says which.

    :raises RunFault: one cannot be removed.
    """
    removed = [*temporary_files(directory), *orphans(directory)]
    try:
        for path in removed:
            path.unlink()
    except OSError as error:
        raise write_fault(directory, error) from None
    return removed


def _metadata(part: Path) -> dict[str, Any]:
    """Nothing if it is not one of ours, or damaged."""
    try:
        return read_metadata(part)
    except (OSError, pa.ArrowException, ValueError):
        return {}


def _parts(table: Path) -> dict[int, Path]:
    paths = table.glob(part_name("*")) if table.is_dir() else iter(())
    return {int(match[1]): path for path in paths if (match := PART.fullmatch(path.name))}
