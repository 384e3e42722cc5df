"""Part files of one table: row groups appended as they fill, and a file that appears whole or not.

A part is written under a temporary name. Closing it writes the footer, fsyncs the file, renames it,
and fsyncs the directory: whoever sees `part-00000.parquet` sees all of it, power cut or not.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

METADATA_KEY = b"streamer"
TEMPORARY = ".tmp"
BUFFERED_BYTES = 16 * 2**20
"""A row group is written at so many bytes, however few rows it has."""


class PartWriter:
    """Writes the parts of one table, one after the other."""

    def __init__(self, directory: Path, schema: pa.Schema, row_group_rows: int) -> None:
        self.directory = directory
        self.schema = schema
        self.rows = 0
        """Rows in the open part, buffered ones included."""
        self._row_group_rows = row_group_rows
        self._buffer: list[pa.Table] = []
        self._buffered = 0
        self._buffered_bytes = 0
        self._number = 0
        self._writer: pq.ParquetWriter | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def is_empty(self) -> bool:
        """Whether not one part was closed yet."""
        return self._number == 0

    @property
    def bytes(self) -> int:
        """Size of the open part: what is written, and what waits to be, not yet compressed."""
        written = self._path(TEMPORARY).stat().st_size if self._writer else 0
        return written + self._buffered_bytes

    def append(self, table: pa.Table) -> None:
        """Add rows; whole row groups go to the file at once.

        :raises OSError: the file could not be written.
        """
        if not table.num_rows:
            return
        self.rows += table.num_rows
        self._buffer.append(table)
        self._buffered += table.num_rows
        self._buffered_bytes += table.nbytes
        if self._buffered >= self._row_group_rows or self._buffered_bytes >= BUFFERED_BYTES:
            self._flush()

    def close(self, metadata: Mapping[str, Any]) -> Path:
        """Finish the open part, empty if nothing was added, with `metadata` in its footer.

        :raises OSError: it could not be written; then there is no part of this name.
        """
        self._flush()
        writer = self._open()
        writer.add_key_value_metadata({METADATA_KEY: orjson.dumps(dict(metadata))})
        writer.close()
        temporary, final = self._path(TEMPORARY), self._path()
        _fsync(temporary)
        temporary.rename(final)
        _fsync(self.directory)
        self._writer = None
        self._number += 1
        self.rows = 0
        return final

    def skip(self) -> None:
        """Write no part of this number."""
        self._number += 1

    def abandon(self) -> None:
        """Drop the open part: its rows have not become visible and do not."""
        if self._writer is not None:
            with contextlib.suppress(OSError, pa.ArrowInvalid):
                self._writer.close()
            self._path(TEMPORARY).unlink(missing_ok=True)
            self._writer = None

    def _flush(self) -> None:
        if self._buffer:
            table = pa.concat_tables(self._buffer).unify_dictionaries()
            self._open().write_table(table, row_group_size=self._row_group_rows)
            self._buffer, self._buffered, self._buffered_bytes = [], 0, 0

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            words = [field.name for field in self.schema if not pa.types.is_primitive(field.type)]
            self._writer = pq.ParquetWriter(
                self._path(TEMPORARY),
                self.schema,
                compression="zstd",
                use_dictionary=words,  # of measurements, hardly two are alike
                write_page_checksum=True,
            )
        return self._writer

    def _path(self, suffix: str = "") -> Path:
        return self.directory / f"part-{self._number:05d}.parquet{suffix}"


def read_metadata(part: Path) -> dict[str, Any]:
    """What `close` put into the footer of `part`; empty if it is not one of ours."""
    metadata = pq.read_metadata(part).metadata or {}
    return dict(orjson.loads(metadata.get(METADATA_KEY, b"{}")))


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
