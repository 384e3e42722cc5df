"""The footer of a part: what the writer notes there, and a copy that shows whether it is damaged.

Parquet puts checksums on its pages and none on its footer. A damaged byte there can leave a file
that every reader takes for whole: with another least or greatest value of a column, a query that
filters by it passes over rows. So a part has its footer twice, and the two are compared before
anything is read from the second, the one that readers know:

    PAR1 | pages | footer, its length, PAR1 | PAR1 | footer, its length, PAR1
"""

from collections.abc import Mapping
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

METADATA_KEY = b"streamer"
"""In a footer, the key of what the writer notes."""
MAGIC = b"PAR1"
END_BYTES = 8
"""Behind a footer: its length, little-endian, and `MAGIC`."""


def close_with_footer(writer: pq.ParquetWriter, sink: pa.NativeFile, notes: bytes) -> None:
    """Close `writer`, which writes to `sink`, with `notes` in the footer, and its copy behind it.

    :raises OSError: it could not be written.
    """
    writer.add_key_value_metadata({METADATA_KEY: notes})
    writer.close()  # which writes the footer; the copy is the same to the byte
    writer.writer.metadata.write_metadata_file(sink)


def read_notes(part: pa.NativeFile) -> dict[str, Any]:
    """What the writer noted in the footer of `part`; empty if it is not one of ours.

    :raises ValueError: the footer is damaged, or `part` is not a Parquet file.
    :raises OSError: the same, where pyarrow says so; or it cannot be read.
    """
    compare_footers(part)
    metadata: Mapping[bytes, bytes] = pq.read_metadata(part).metadata or {}
    return dict(orjson.loads(metadata.get(METADATA_KEY, b"{}")))


def compare_footers(part: pa.NativeFile) -> None:
    """Compare the footer with its copy, if it has one: files of other programs, and parts of
    runs by earlier versions, do not. A file that does not end as Parquet does is left to whoever
    parses it.

    :raises ValueError: they differ.
    """
    size = part.size()
    if size < END_BYTES:
        return
    part.seek(size - END_BYTES)
    length = int.from_bytes(part.read(END_BYTES - len(MAGIC)), "little") + END_BYTES
    begin = size - 2 * length - len(MAGIC)
    if begin < 0:
        return
    part.seek(begin)
    copy, magic, footer = part.read(length), part.read(len(MAGIC)), part.read(length)
    if copy.endswith(MAGIC) and magic == MAGIC and copy != footer:
        raise ValueError("its footer and the copy of it differ")
