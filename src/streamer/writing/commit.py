"""The commit protocol: the parts of all tables for a range of rows count together, or none does.

A commit has a number n and covers input rows [first_row, end_row). Each table that has rows for it
writes part n; when the storage keeps all of them, they are published one after another, the leading
table last, of which every commit has a part, an empty one if need be. **A commit exists if the
leading table's part does.** Until then a crash leaves unpublished files and parts of other tables
that belong to no commit; `tidy` removes both, and the work is done again.

    finish every part                    nothing is visible
    publish the other tables' parts      parts of no commit, if it ends here
    publish the leading table's part     the commit exists

A run may be written by several writers, each with `Names` of its own: everything here is about the
commits of one of them, and never touches the files of another.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from streamer.errors import RunFault
from streamer.records import Counts, Position
from streamer.writing.footers import read_notes
from streamer.writing.names import SHARDS, WHOLE, Names, is_shard, part_of
from streamer.writing.parts import PartWriter
from streamer.writing.storage.base import UNPUBLISHED, Storage, write_fault

REPLACED = ("manifest.json", "status.json")
"""Files in a writer's folder that are replaced as a whole."""


POSITIONS = "places"
"""The key in footers; it cannot change, as earlier runs have it."""


@dataclass(frozen=True, slots=True)
class WrittenTable:
    """A table as the writer sees it."""

    name: str
    """The name of its folder."""
    schema: pa.Schema
    """Its columns, `row` first."""
    leads: bool = False
    """Whether every commit has a part of it, which makes the commit."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a run has come: the content of the last commit's footer."""

    number: int = 0
    """Of the next commit."""
    row: int = 0
    """The first input row that no commit covers."""
    positions: tuple[Position, ...] = ()
    """Where reading goes on: of the last source, or of each where they are followed."""
    counts: Counts = field(default_factory=Counts)
    """Totals of all commits."""
    tables: frozenset[str] = frozenset()
    """Names of the tables that were written."""


START = Checkpoint()
"""Of a whole run that has written nothing yet."""


def commit(number: int, tables: Sequence[PartWriter], metadata: Mapping[str, Any]) -> None:
    """Make the open parts of `tables` visible together; the last of `tables` leads.

    A table without rows has no part, but for the leading one and in commit 0, so that every table
    can be read.

    :raises OSError: it could not be written. Then it does not exist.
    """
    *others, leading = tables
    rows = {parts.table: parts.rows for parts in tables}
    written = [parts for parts in others if parts.rows or number == 0] + [leading]
    for parts in written:
        parts.finish({**metadata, "tables": rows})
    for parts in written:
        parts.publish()


def read_checkpoint(
    storage: Storage, leading: str, names: Names = WHOLE, begin: Checkpoint = START
) -> Checkpoint:
    """Where the writer with these `names` stands, from the last part of the table `leading`;
    `begin` if it has none.

    :raises RunFault: the part of the last commit is damaged, or cannot be read.
    """
    try:
        last = max(_parts(storage.list(leading), names).items(), default=None)
    except OSError as error:
        raise RunFault(f"cannot read {storage.location}: {error}. Make it readable.") from None
    if last is None:
        return begin
    number, name = last
    try:
        footer = _metadata(storage, name)
        positions = tuple(Position(**position) for position in footer[POSITIONS])
        tables, counts = frozenset(footer["tables"]), Counts.of(footer["counts"])
        return Checkpoint(number + 1, footer["end_row"], positions, counts, tables)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        where = storage.location
        raise RunFault(
            f"{where}/{name} is damaged: {str(error).rstrip('.')}. `streamer check {where}` shows "
            f"details; without this file and those of the same number in the other tables, the run "
            f"resumes before it."
        ) from None


def unpublished_files(storage: Storage, names: Names = WHOLE) -> list[str]:
    """The names of the writer's files that were not published."""
    parts = [
        file
        for table in storage.folders()
        for file in files_of(storage, table)
        if file.endswith(UNPUBLISHED) and _number(file.removesuffix(UNPUBLISHED), names) is not None
    ]
    replaced = {names.own(name) + UNPUBLISHED for name in REPLACED}
    return sorted([*parts, *replaced.intersection(storage.list(names.folder))])


def orphans(storage: Storage, leading: str, names: Names = WHOLE) -> list[str]:
    """The names of the writer's parts that belong to no commit: they are beyond the last one, which
    is the last part of the table `leading`."""
    committed, last = max(_parts(storage.list(leading), names).items(), default=(-1, None))
    tables = _metadata_or_nothing(storage, last).get("tables", {}) if last else {}
    return [
        name
        for table in storage.folders()
        if table != leading
        for number, name in sorted(_parts(files_of(storage, table), names).items())
        if number > committed and (table in tables or _metadata_or_nothing(storage, name))
    ]


def tidy(storage: Storage, leading: str, names: Names = WHOLE) -> list[str]:
    """Remove `unpublished_files` and `orphans`, whose rows are done again; returns their names.

    :raises RunFault: one cannot be removed.
    """
    try:
        removed = [*unpublished_files(storage, names), *orphans(storage, leading, names)]
        for name in removed:
            storage.remove(name)
    except OSError as error:
        raise write_fault(storage.location, error) from None
    return removed


def writers(storage: Storage) -> list[Names]:
    """Those of the writer of a whole run, and of all shards of which something is there, in order.

    :raises OSError: the storage cannot be read.
    """
    files = (file for table in storage.folders() for file in files_of(storage, table))
    parts = {part_of(file.removesuffix(UNPUBLISHED).rpartition("/")[2]) for file in files}
    folders = {folder.rpartition("/")[2] for folder in storage.folders(SHARDS)}
    shards = {part.shard for part in parts if part} | {one for one in folders if is_shard(one)}
    return [Names(shard) for shard in sorted({WHOLE.shard, *shards})]


def _parts(files: Iterable[str], names: Names) -> dict[int, str]:
    """Number to name of those of `files` that are published parts of the writer's."""
    numbers = ((_number(name, names), name) for name in files)
    return {number: name for number, name in numbers if number is not None}


def _number(name: str, names: Names) -> int | None:
    """The number of the part of this name; None if it is not one of the writer's."""
    part = part_of(name.rpartition("/")[2])
    return part.number if part and part.shard == names.shard else None


def files_of(storage: Storage, table: str) -> Iterator[str]:
    """The full names of the files in `table`. One that may not be read, such as lost+found, is no
    table of ours."""
    with contextlib.suppress(PermissionError):
        yield from storage.list(table)


def _metadata(storage: Storage, name: str) -> dict[str, Any]:
    with storage.read(name) as file:
        return read_notes(file)


def _metadata_or_nothing(storage: Storage, name: str) -> dict[str, Any]:
    """Nothing if it is not one of ours, or damaged."""
    try:
        return _metadata(storage, name)
    except (OSError, pa.ArrowException, ValueError):
        return {}
