"""The columns of part files: those that the table must have, and the same in all of its parts."""

from collections.abc import Sequence

import pyarrow as pa

from streamer.results.check.parts import METRICS, REJECTED
from streamer.tables.rejected import REJECTED as REJECTED_SCHEMA

KEYS = [("row", pa.int64()), ("id", pa.string()), ("source", pa.string())]
"""The first columns of metrics."""


def schema_fault(table: str, schema: pa.Schema, columns: Sequence[str]) -> str:
    """What is wrong with the first part of `table`; `columns` are the measurements that the
    manifest names, last in metrics. Empty if nothing is."""
    if table == REJECTED and (fault := difference(schema, REJECTED_SCHEMA)):
        return f"its columns are not those of rejected: {fault}"
    if table == METRICS:
        fields = [(field.name, field.type) for field in schema]
        if fields[: len(KEYS)] != KEYS:
            return "its first columns are not row, id and source"
        if columns and schema.names[-len(columns) :] != list(columns):
            return "its last columns are not those that manifest.json names"
    return ""


def difference(schema: pa.Schema, reference: pa.Schema) -> str:
    """The first column in which `schema` is not `reference`; empty if it is."""
    for place in range(max(len(schema), len(reference))):
        here = schema.field(place) if place < len(schema) else "nothing"
        there = reference.field(place) if place < len(reference) else "nothing"
        if here != there:
            return f"column {place} is {_shown(here)}, not {_shown(there)}"
    return ""


def _shown(field: pa.Field | str) -> str:
    if isinstance(field, str):
        return field
    return f"{field.name}: {field.type}{'' if field.nullable else ', never null'}"
