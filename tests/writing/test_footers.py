"""The footer of a part is there twice, so that damage to it is found."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamer.writing.parts import PartWriter
from streamer.writing.storage.local import LocalStorage
from support.made_runs import notes_of

SCHEMA = pa.schema([("row", pa.int64()), ("l0", pa.float32())])
ROWS = pa.table({"row": range(100), "l0": [row / 7 for row in range(100)]}, schema=SCHEMA)
NOTES = {"first_row": 0, "end_row": 100}


@pytest.fixture
def part(tmp_path: Path) -> Path:
    parts = PartWriter(LocalStorage(tmp_path), "metrics", SCHEMA, row_group_rows=50)
    parts.append(ROWS)
    parts.finish(NOTES)
    return tmp_path / parts.publish()


def footer_bytes(data: bytes) -> int:
    """Those of the last footer, its length and the magic number included."""
    return int.from_bytes(data[-8:-4], "little") + 8


def test_the_footer_is_there_twice_and_readers_see_one_table(part):
    data = part.read_bytes()
    length = footer_bytes(data)
    footer = data[-length:]
    assert data.endswith(footer + b"PAR1" + footer)
    assert pq.read_table(part) == ROWS
    assert notes_of(part) == NOTES


def test_every_byte_of_a_footer_is_guarded(part):
    data = part.read_bytes()
    length = footer_bytes(data)
    begin = len(data) - 2 * length - 4
    magic = range(begin + length - 4, begin + length + 4)  # between the two: nothing reads it
    for position in [*range(begin, magic.start), *range(magic.stop, len(data))]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        part.write_bytes(damaged)
        with pytest.raises((ValueError, OSError)):
            notes_of(part)


def test_parquet_files_with_one_footer_are_read_as_they_are(tmp_path):
    pq.write_table(ROWS, tmp_path / "other.parquet")
    assert notes_of(tmp_path / "other.parquet") == {}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1\xff\xff\xff\x7fPAR1", b"x" * 100])
def test_what_is_no_parquet_file_is_an_error_and_no_crash(content, tmp_path):
    (tmp_path / "bad.parquet").write_bytes(content)
    with pytest.raises((ValueError, OSError)):
        notes_of(tmp_path / "bad.parquet")
