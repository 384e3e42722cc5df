"""Part files of one table: row groups appended as they fill, and a file that appears whole or not.

Finishing a part writes its footer and has the storage keep all of it; publishing it gives it its
name: whoever sees `part-00000.parquet` sees all of it, power cut or not. `commit` does both for all
tables together.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from streamer.writing.footers import close_with_footer
from streamer.writing.names import WHOLE, Names
from streamer.writing.storage.base import NewFile, Storage

BUFFERED_BYTES = 16 * 2**20
"""A row group is written at so many bytes, however few rows it has."""


class PartWriter:
    """Writes the parts of one table, one after the other."""

    def __init__(
        self,
        storage: Storage,
        table: str,
        schema: pa.Schema,
        row_group_rows: int,
        number: int = 0,
        *,
        names: Names = WHOLE,
    ) -> None:
        self.table = table
        self.number = number
        """Of the open part."""
        self.schema = schema
        self.rows = 0
        """Rows in the open part, buffered ones included."""
        self._storage = storage
        self._names = names
        self._row_group_rows = row_group_rows
        self._buffer: list[pa.Table] = []
        self._buffered = 0
        self._buffered_bytes = 0
        self._file: NewFile | None = None
        """The open part, until it is published."""
        self._writer: pq.ParquetWriter | None = None
        """Into that file, until it is finished."""

    @property
    def bytes(self) -> int:
        """Size of the open part: what is written, and what waits to be, not yet compressed."""
        written = self._file.sink.tell() if self._file and self._writer else 0
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
        """Have the storage keep the open part, with `metadata` in its footer. Nobody sees it yet.

        :raises OSError: it could not be written.
        """
        self._flush()
        file, writer = self._open()
        close_with_footer(writer, file.sink, orjson.dumps(dict(metadata)))
        file.finish()
        self._writer = None

    def publish(self) -> str:
        """Give the finished part its name, which is returned.

        :raises OSError: it could not be done.
        """
        assert self._file is not None
        assert self._writer is None, "publish a part after it is finished"
        file = self._file
        self._storage.publish(file)
        self._file = None
        return file.name

    def begin(self, number: int) -> None:
        """Go on with an empty part of this number."""
        self.number = number
        self.rows = 0

    def abandon(self) -> None:
        """Drop the open part: its rows have not become visible and do not."""
        file, self._file = self._file, None
        writer, self._writer = self._writer, None
        if file is not None:
            with contextlib.suppress(OSError):  # resuming the run removes what is left
                file.discard()
        if writer is not None:
            with contextlib.suppress(OSError, pa.ArrowInvalid):
                writer.close()

    def _flush(self) -> None:
        if self._buffer:
            table = pa.concat_tables(self._buffer).unify_dictionaries()
            _, writer = self._open()
            writer.write_table(table, row_group_size=self._row_group_rows)
            self._buffer, self._buffered, self._buffered_bytes = [], 0, 0

    def _open(self) -> tuple[NewFile, pq.ParquetWriter]:
        """The open part; a new one if there is none."""
        if self._file is None or self._writer is None:
            words = [field.name for field in self.schema if not pa.types.is_primitive(field.type)]
            self._file = self._storage.create(self._names.part(self.table, self.number))
            self._writer = pq.ParquetWriter(
                self._file.sink,
                self.schema,
                compression="zstd",
                use_dictionary=words,  # of measurements, hardly two are alike
                write_page_checksum=True,
            )
        return self._file, self._writer
