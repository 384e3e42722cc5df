"""Verifies the columns of part files: those that the table must have, equal in all its parts."""

from collections.abc import Sequence

import pyarrow as pa

from streamer.tables import Table


def schema_fault(table: Table | None, schema: pa.Schema, columns: Sequence[str]) -> str:
    """What is wrong with the schema of the first part of `table`; empty if nothing. `table` is None
    for one that only the run knows. `columns` are the measurements that the manifest names, the
    last ones of the leading table."""
    if table is None:
        first = schema.field(0) if len(schema) else None
        is_row = first is not None and (first.name, first.type) == ("row", pa.int64())
        return "" if is_row else "its first column is not row"
    if not table.has_more_columns:
        fault = difference(schema, table.schema)
        return fault and f"its columns are not those of {table.name}: {fault}"
    keys = [(field.name, field.type) for field in table.schema]
    if [(field.name, field.type) for field in schema][: len(keys)] != keys:
        *names, last = table.schema.names
        return f"its first columns are not {', '.join(names)} and {last}"
    if table.leads and columns and schema.names[-len(columns) :] != list(columns):
        return "its last columns are not those that manifest.json names"
    return ""


def difference(schema: pa.Schema, reference: pa.Schema) -> str:
    """The first column in which `schema` differs from `reference`; empty if none does."""
    for index in range(max(len(schema), len(reference))):
        here = schema.field(index) if index < len(schema) else "nothing"
        there = reference.field(index) if index < len(reference) else "nothing"
        if here != there:
            return f"column {index} is {_shown(here)}, not {_shown(there)}"
    return ""


def _shown(field: pa.Field | str) -> str:
    if isinstance(field, str):
        return field
    return f"{field.name}: {field.type}{'' if field.nullable else ', never null'}"
