"""`rejected/`: what could not be processed, with its position, its reason and its raw bytes."""

from collections.abc import Sequence

import pyarrow as pa

from streamer.records import Rejection
from streamer.tables.table import ROW, SOURCE, Rows, Table, described

SCHEMA = pa.schema(
    [
        described("row", pa.int64(), ROW),
        described("source", pa.string(), SOURCE),
        described(
            "offset",
            pa.int64(),
            "where its first byte is in the source, from 0; in a compressed source, in the "
            "decompressed stream",
            unit="bytes",
        ),
        described("reason", pa.string(), "why it was rejected"),
        described("raw", pa.binary(), "its bytes; of a very long record the first 64 MiB"),
        described("raw_bytes", pa.int64(), "how many bytes it has", unit="bytes"),
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
