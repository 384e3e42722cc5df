"""`rejected/`: what could not be processed, with its position, its reason and its raw bytes."""

from collections.abc import Sequence

import pyarrow as pa

from streamer.records import Rejection
from streamer.tables.table import Rows, Table

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("source", pa.string()),
        ("offset", pa.int64()),
        ("reason", pa.string()),
        ("raw", pa.binary()),
        ("raw_bytes", pa.int64()),
    ]
)


def _rows(rejections: Sequence[Rejection]) -> pa.Table:
    rows = [
        {
            "row": rejection.origin.row,
            "source": rejection.origin.source,
            "offset": rejection.origin.offset,
            "reason": rejection.reason,
            "raw": rejection.raw,
            "raw_bytes": rejection.size,
        }
        for rejection in rejections
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


REJECTED = Table(
    name="rejected",
    schema=SCHEMA,
    rows=lambda _: Rows(SCHEMA, of_rejections=_rows),
    counted_as="rejected",
    reason="reason",
)
