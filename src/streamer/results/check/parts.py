"""Part files as they are on disk: lists and opens them, parses footers, decodes every page."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from streamer.writing.commit import files_of
from streamer.writing.footers import METADATA_KEY, compare_footers
from streamer.writing.names import Part, part_of
from streamer.writing.storage.base import Storage


class Damaged(Exception):
    """A file is damaged; the message says how."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The parts of a run at one moment: the name of the file of each part of each table, such as
    metrics/part-00000.parquet."""

    leading: str
    """The table whose parts make the commits."""
    storage: Storage
    """Where the files are."""
    tables: dict[str, dict[Part, str]]
    strangers: list[str] = field(default_factory=list)
    """Parquet files among them that are not parts, though readers would read them as such."""

    @property
    def commits(self) -> dict[Part, str]:
        """The commits, which are the parts of the leading table."""
        return self.tables[self.leading]

    def last(self, shard: str) -> Part | None:
        """The last commit of a shard; None if it has none."""
        return max((part for part in self.commits if part.shard == shard), default=None)


def list_parts(storage: Storage, leading: str) -> Listing:
    """The parts of the run in `storage`, of which the table `leading` leads.

    The leading table is listed first: while a run is being written, a commit's other parts appear
    before its leading part, so none is missed.

    :raises OSError: a directory cannot be read.
    """
    listing = Listing(leading, storage, {leading: {}})
    for folder in sorted(storage.folders(), key=lambda folder: folder != leading):
        parts: dict[Part, str] = {}
        files = storage.list(folder) if folder == leading else files_of(storage, folder)
        for file in files:
            if part := part_of(file.rpartition("/")[2]):
                parts[part] = file
            elif file.endswith(".parquet"):
                listing.strangers.append(file)
        if parts:
            listing.tables[folder] = parts
    return listing


@dataclass(frozen=True, slots=True)
class Footer:
    """The writer's record of a commit, in the footer of each of its parts."""

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
    """A part that is open for reading. Close it after use.

    :raises Damaged: it cannot be opened.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        with contextlib.ExitStack() as on_error:
            try:
                self._source = on_error.enter_context(storage.read(name))
                compare_footers(self._source)  # first of all: pyarrow may crash on a bad one
                self._file = pq.ParquetFile(
                    self._source, page_checksum_verification=True, pre_buffer=False
                )
                self.schema: pa.Schema = self._file.schema_arrow.remove_metadata()
            except Exception as error:  # pyarrow has many errors for a damaged file
                raise Damaged(f"cannot be opened: {_reason(error)}") from None
            on_error.pop_all()
        self.rows: int = self._file.metadata.num_rows

    def __enter__(self) -> "OpenPart":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._source.close()

    @property
    def is_ours(self) -> bool:
        """Whether streamer wrote it."""
        return METADATA_KEY in (self._file.metadata.metadata or {})

    def footer(self) -> Footer:
        """The parsed footer.

        :raises Damaged: it is not a footer of the writer.
        """
        if not self.is_ours:
            raise Damaged(
                f"has no {METADATA_KEY.decode()!r} in its footer: streamer did not write it"
            )
        try:
            entries = orjson.loads(self._file.metadata.metadata[METADATA_KEY])
        except orjson.JSONDecodeError as error:
            raise Damaged(f"its footer is not readable: {error}") from None
        for key, is_proper in PROPER.items():
            if not isinstance(entries, dict) or not is_proper(entries.get(key)):
                raise Damaged(f"its footer has no proper {key!r}")
        footer = Footer(
            entries["first_row"], entries["end_row"], entries["tables"], entries["counts"]
        )
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
