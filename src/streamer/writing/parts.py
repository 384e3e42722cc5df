"""Part files of one table: row groups appended as they fill, and a file that appears whole or not.

A part is written under a temporary name. Finishing it writes the footer and fsyncs the file,
publishing it renames it and fsyncs the directory: whoever sees `part-00000.parquet` sees all of it,
power cut or not. `commit` does both for all tables together.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from streamer.writing.fault_points import reached
from streamer.writing.storage.local import IMPATIENT, Disk, RetryingWriter

METADATA_KEY = b"streamer"
TEMPORARY = ".tmp"
BUFFERED_BYTES = 16 * 2**20
"""A row group is written at so many bytes, however few rows it has."""


class PartWriter:
    """Writes the parts of one table, one after the other."""

    def __init__(
        self,
        directory: Path,
        schema: pa.Schema,
        row_group_rows: int,
        number: int = 0,
        disk: Disk = IMPATIENT,
    ) -> None:
        self.directory = directory
        self.number = number
        """Of the open part."""
        self.schema = schema
        self.rows = 0
        """Rows in the open part, buffered ones included."""
        self._row_group_rows = row_group_rows
        self._buffer: list[pa.Table] = []
        self._buffered = 0
        self._buffered_bytes = 0
        self._disk = disk
        self._file: RetryingWriter
        """Of the writer, while there is one."""
        self._writer: pq.ParquetWriter | None = None
        directory.mkdir(parents=True, exist_ok=True)
        fsync(directory.parent)

    @property
    def bytes(self) -> int:
        """Size of the open part: what is written, and what waits to be, not yet compressed."""
        written = self._file.sink.tell() if self._writer else 0
        return int(written) + self._buffered_bytes

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

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Put the open part on the disk, with `metadata` in its footer, but not yet in sight.

        :raises OSError: it could not be written.
        """
        self._flush()
        writer = self._open()
        writer.add_key_value_metadata({METADATA_KEY: orjson.dumps(dict(metadata))})
        writer.close()
        self._file.finish()
        self._writer = None

    def publish(self) -> Path:
        """Give the finished part its name.

        :raises OSError: the directory could not be written.
        """
        step = f"{self.number} renamed {self.directory.name}"
        temporary, final = self._path(TEMPORARY), self._path()
        self._disk.patiently(lambda: temporary.rename(final), final)
        reached(step)
        self._disk.patiently(lambda: fsync(self.directory), self.directory)
        reached(f"{step} for good")
        return final

    def begin(self, number: int) -> None:
        """Go on with an empty part of this number."""
        self.number = number
        self.rows = 0

    def abandon(self) -> None:
        """Drop the open part: its rows have not become visible and do not."""
        if self._writer is not None:
            self._file.discard()
            with contextlib.suppress(OSError, pa.ArrowInvalid):
                self._writer.close()
            self._writer = None
        with contextlib.suppress(OSError):  # going on removes what is left
            self._path(TEMPORARY).unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._buffer:
            table = pa.concat_tables(self._buffer).unify_dictionaries()
            self._open().write_table(table, row_group_size=self._row_group_rows)
            self._buffer, self._buffered, self._buffered_bytes = [], 0, 0

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            words = [field.name for field in self.schema if not pa.types.is_primitive(field.type)]
            self._file = RetryingWriter(self._path(TEMPORARY), self._disk)
            self._writer = pq.ParquetWriter(
                self._file.sink,
                self.schema,
                compression="zstd",
                use_dictionary=words,  # of measurements, hardly two are alike
                write_page_checksum=True,
            )
        return self._writer

    def _path(self, suffix: str = "") -> Path:
        return self.directory / (part_name(f"{self.number:05d}") + suffix)


def part_name(number: str) -> str:
    """The file name of a part; of all parts for `*`."""
    return f"part-{number}.parquet"


def read_metadata(part: Path) -> dict[str, Any]:
    """What `finish` put into the footer of `part`; empty if it is not one of ours."""
    metadata = pq.read_metadata(part).metadata or {}
    return dict(orjson.loads(metadata.get(METADATA_KEY, b"{}")))


def fsync(path: Path) -> None:
    """Return when the file or directory `path` is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
