"""The tables of a run directory and their columns, in order. Stated here and nowhere else."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamer.config import CarryType
from streamer.errors import UsageError
from streamer.records import Column, TokenizedRecord

ARROW = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "float32": pa.float32(),
    "int32": pa.int32(),
    "category": pa.dictionary(pa.int8(), pa.string()),
}


def metrics_schema(
    carry: Mapping[str, CarryType], passages: Sequence[str], columns: Sequence[Column]
) -> pa.Schema:
    """The schema of `metrics/`: the record, what it carries, its tokens, then the metrics.

    :raises UsageError: two columns have the same name.
    """
    names = [*carry, *(f"{passage}_tokens" for passage in passages)]
    names += [column.name for column in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"two columns would be called {', '.join(twice)}: carry other fields, or rename them"
        )
    return pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("id", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            *(pa.field(name, ARROW[kind]) for name, kind in carry.items()),
            *(pa.field(f"{passage}_tokens", pa.int32()) for passage in passages),
            *(pa.field(column.name, ARROW[column.type]) for column in columns),
        ]
    )


def metrics_table(
    records: Sequence[TokenizedRecord],
    values: npt.NDArray[np.floating],
    columns: Sequence[Column],
    schema: pa.Schema,
) -> pa.Table:
    """Rows of `metrics/` from records and their values, [record, column], NaN for null."""
    passages = len(records[0].tokens) if records else 0
    carried = len(records[0].carried) if records else 0
    arrays: list[Any] = [
        [record.origin.row for record in records],
        [record.id for record in records],
        [record.origin.source for record in records],
        *([record.carried[place] for record in records] for place in range(carried)),
        *([len(record.tokens[place]) for record in records] for place in range(passages)),
    ]
    fields = list(schema)
    if not records:
        return schema.empty_table()
    lead = [pa.array(array, field.type) for array, field in zip(arrays, fields, strict=False)]
    metrics = [_array(values[:, place], column) for place, column in enumerate(columns)]
    return pa.Table.from_arrays([*lead, *metrics], schema=schema)


def _array(values: npt.NDArray[np.floating], column: Column) -> pa.Array:
    missing = np.isnan(values)
    if column.type == "category":
        codes = pa.array(np.where(missing, 0, values).astype(np.int8), mask=missing)
        return pa.DictionaryArray.from_arrays(codes, pa.array(column.categories))
    if column.type == "int32":
        return pa.array(np.where(missing, 0, values).astype(np.int32), mask=missing)
    return pa.array(values.astype(np.float32), mask=missing)
