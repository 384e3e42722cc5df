"""Part files as they lie there: found, opened, their footers understood, every page decoded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from streamer.writing.names import Part, part_of
from streamer.writing.parts import METADATA_KEY


class Damaged(Exception):
    """What is wrong with one file."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The parts of a run at one moment: table to part to file."""

    leading: str
    """The table whose parts make the commits."""
    tables: dict[str, dict[Part, Path]]
    strangers: list[Path] = field(default_factory=list)
    """Parquet files beside them that are no parts, though readers take them for some."""

    @property
    def commits(self) -> dict[Part, Path]:
        """The commits: a part of the leading table each."""
        return self.tables[self.leading]

    def last(self, shard: str) -> Part | None:
        """The last commit of a shard; None if it has none."""
        return max((part for part in self.commits if part.shard == shard), default=None)


def list_parts(run: Path, leading: str) -> Listing:
    """The parts in `run`, of which the table `leading` leads.

    That comes first: of a run that is being written, a commit's other parts are there before its
    leading part, so none is missed.

    :raises OSError: a directory cannot be read.
    """
    listing = Listing(leading, {leading: {}})
    folders = sorted(entry for entry in run.iterdir() if entry.is_dir())
    for folder in sorted(folders, key=lambda folder: folder.name != leading):
        parts: dict[Part, Path] = {}
        for file in sorted(folder.glob("*.parquet")):
            if part := part_of(file.name):
                parts[part] = file
            else:
                listing.strangers.append(file)
        if parts:
            listing.tables[folder.name] = parts
    return listing


def shown(file: Path) -> str:
    """A part as messages name it: metrics/part-00000.parquet."""
    return f"{file.parent.name}/{file.name}"


@dataclass(frozen=True, slots=True)
class Footer:
    """What the writer says of a commit, in the footer of each of its parts."""

    first_row: int
    end_row: int
    tables: dict[str, int]
    """Rows in each table's part of this commit."""
    counts: dict[str, Any]
    """Totals since the start of the run."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


PROPER: dict[str, Callable[[Any], bool]] = {
    "first_row": _is_number,
    "end_row": _is_number,
    "tables": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    "counts": lambda value: isinstance(value, dict),
}


class OpenPart:
    """A part that is open for reading: its footer is there. Close it after use.

    :raises Damaged: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
            self.schema: pa.Schema = self._file.schema_arrow.remove_metadata()
        except Exception as error:  # pyarrow has many errors for a damaged file
            raise Damaged(f"cannot be opened: {_reason(error)}") from None
        self.rows: int = self._file.metadata.num_rows

    def __enter__(self) -> "OpenPart":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def is_ours(self) -> bool:
        """Whether streamer wrote it."""
        return METADATA_KEY in (self._file.metadata.metadata or {})

    def footer(self) -> Footer:
        """What the writer put there.

        :raises Damaged: it is not what a writer puts there.
        """
        if not self.is_ours:
            raise Damaged(
                f"has no {METADATA_KEY.decode()!r} in its footer: streamer did not write it"
            )
        try:
            said = orjson.loads(self._file.metadata.metadata[METADATA_KEY])
        except orjson.JSONDecodeError as error:
            raise Damaged(f"its footer is not readable: {error}") from None
        for key, is_proper in PROPER.items():
            if not isinstance(said, dict) or not is_proper(said.get(key)):
                raise Damaged(f"its footer has no proper {key!r}")
        footer = Footer(said["first_row"], said["end_row"], said["tables"], said["counts"])
        if not 0 <= footer.first_row <= footer.end_row:
            raise Damaged(f"its footer covers rows {footer.first_row:,} to {footer.end_row:,}")
        return footer

    def row_groups(self) -> Iterator[pa.Table]:
        """Every row group, decoded whole, its pages' checksums verified.

        :raises Damaged: one cannot be decoded.
        """
        for number in range(self._file.num_row_groups):
            try:
                table = self._file.read_row_group(number)
                table.validate(full=True)
                rows = self._file.metadata.row_group(number).num_rows
            except Exception as error:
                raise Damaged(f"row group {number} cannot be read: {_reason(error)}") from None
            if table.num_rows != rows:
                raise Damaged(f"row group {number} has {table.num_rows:,} of its {rows:,} rows")
            yield table


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
