"""Verifies the columns of part files: those that the table must have, equal in all its parts."""

import pyarrow as pa

from streamer.manifest import Manifest
from streamer.tables import Table


def schema_fault(name: str, table: Table | None, schema: pa.Schema, manifest: Manifest) -> str:
    """What is wrong with the schema of the first part of the table `name`; empty if nothing.
    `table` is None for one that only the run knows. `manifest` names its columns."""
    fault = _contract_fault(table, schema)
    if fault:
        return fault
    last = manifest.columns if table is not None and table.leads else ()
    if last and schema.names[-len(last) :] != list(last):  # all that earlier manifests name
        return "its last columns are not those that manifest.json names"
    columns = manifest.tables.get(name)
    if columns is not None and schema.names != list(columns):
        return "its columns are not those that manifest.json names"
    return ""


def _contract_fault(table: Table | None, schema: pa.Schema) -> str:
    """What is wrong with it whatever the run."""
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
