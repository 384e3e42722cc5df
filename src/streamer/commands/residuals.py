"""The residuals themselves as a table, for `streamer verify`: no run has it."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from streamer.records import TokenizedRecord
from streamer.tables import Layout, Rows, Table
from streamer.tables.metrics.activations import Activations
from streamer.tables.table import Arrays

Residuals: TypeAlias = Mapping[str, npt.NDArray[np.float64]]
"""By `name_at` their layer, [record, passage, width]; as the SAEs read them."""
ROW = pa.schema([pa.field("row", pa.int64(), nullable=False)])


def name_at(layer: int) -> str:
    """What the residual at `layer` is called in what is printed."""
    return f"residual at layer {layer}"


def _rows(layout: Layout) -> Rows:
    schema = ROW
    for layer in layout.layers:
        schema = schema.append(pa.field(name_at(layer), pa.list_(pa.float64()), nullable=False))

    def take(activations: Activations) -> Sequence[Tensor]:
        return [layer.residual for layer in activations.layers]

    def of_records(records: Sequence[TokenizedRecord], taken: Arrays) -> pa.Table:
        rows = pa.array([record.origin.row for record in records], pa.int64())
        return pa.Table.from_arrays([rows, *map(_lists, taken)], schema=schema)

    return Rows(schema, take, of_records)


RESIDUALS = Table(name="residuals", schema=ROW, rows=_rows, has_more_columns=True)


def residuals_in(rows: pa.Table, passages: int) -> Residuals:
    """What rows of `RESIDUALS` hold, in their order, of records of so many passages."""
    found = {}
    for name in rows.column_names[1:]:
        flat = rows[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        found[name] = flat.reshape(len(rows), passages, -1)
    return found


def _lists(residual: npt.NDArray[np.floating]) -> pa.ListArray:
    """[record, passage, width] as a list a record."""
    size = residual[0].size
    offsets = np.arange(len(residual) + 1, dtype=np.int32) * size
    return pa.ListArray.from_arrays(offsets, pa.array(residual.ravel().astype(np.float64)))
