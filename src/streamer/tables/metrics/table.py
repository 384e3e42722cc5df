"""`metrics/`: a row a record: what it is, what it carries, its tokens, then its measurements."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from streamer.errors import UsageError
from streamer.records import TokenizedRecord
from streamer.tables.column import Column
from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.columns import Family, columns_of, compute
from streamer.tables.table import KEYS, Arrays, Layout, Rows, described

ARROW = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "float32": pa.float32(),
    "int32": pa.int32(),
    "category": pa.dictionary(pa.int8(), pa.string()),
}

SYMBOLS = (
    "x: the residual at the passage's last token, at the layer of the column. f = sae.encode(x): "
    "its features, active where f > 0. r_i = W_dec[i]: the decoder's direction of feature i. "
    "w = f/Σf; r̄ = Σ w_i r_i, the centroid. λ: the eigenvalues of C = Σ w_i (r_i − r̄)(r_i − r̄)ᵀ, "
    "a ≥ b ≥ c the square roots of the three largest, the first principal axis the eigenvector of "
    "the largest. A line angle is the smaller of an angle and 180° minus it. Of an SAE that the "
    "file's origin calls centred, x is the residual less its mean; of one that it calls signed, "
    "active is f ≠ 0, |f| stands for f in all but decode, and r_i = −W_dec[i] where f < 0. noise: "
    "as the settings noise_std, noise_scale, noise_draws and seed say."
)
"""What the definitions of columns refer to; in the file's metadata, under `symbols`."""


def metrics_rows(families: Sequence[Family], layout: Layout, *, exact: bool = False) -> Rows:
    """How rows of `metrics/` are made of `families`; with numbers in float64 if `exact`.

    :raises UsageError: two columns have the same name.
    """
    columns = columns_of(families, layout)
    if layout.only is not None:
        columns = tuple(column for column in columns if column.name in layout.only)
    if exact:
        columns = tuple(
            replace(column, type="float64") if column.type == "float32" else column
            for column in columns
        )
    schema = metrics_schema(layout, columns)

    def take(activations: Activations) -> Sequence[Tensor]:
        return (compute(families, columns, activations),)

    def of_records(records: Sequence[TokenizedRecord], taken: Arrays) -> pa.Table:
        return metrics_table(records, taken[0], columns, len(layout.carry), schema)

    return Rows(schema, take, of_records, columns=columns)


def metrics_schema(layout: Layout, columns: Sequence[Column]) -> pa.Schema:
    """The schema of `metrics/`: the record, what it carries, its tokens, then the metrics.

    :raises UsageError: two columns have the same name.
    """
    carry, passages = layout.carry, layout.passages
    names = [*carry, *(f"{passage}_tokens" for passage in passages)]
    names += [column.name for column in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"two columns would be called {', '.join(twice)}: carry other fields, or rename them"
        )
    return pa.schema(
        [
            *KEYS,
            *(
                described(name, ARROW[kind], f"the record's field {name!r}, carried through")
                for name, kind in carry.items()
            ),
            *(
                described(
                    f"{passage}_tokens",
                    pa.int32(),
                    "tokens of the passage that the model read, BOS counted",
                    unit="tokens",
                    more={"passage": passage},
                )
                for passage in passages
            ),
            *map(_measurement, columns),
        ],
        metadata={"symbols": SYMBOLS},
    )


def _measurement(column: Column) -> pa.Field:
    more = {"layer": ", ".join(map(str, column.layers)), "passage": column.passage}
    return described(
        column.name,
        ARROW[column.type],
        column.description,
        unit=column.unit,
        definition=column.definition,
        more={key: value for key, value in more.items() if value},
    )


def metrics_table(
    records: Sequence[TokenizedRecord],
    values: npt.NDArray[np.floating],
    columns: Sequence[Column],
    carried: int,
    schema: pa.Schema,
) -> pa.Table:
    """Rows of `metrics/` of one record or more and their values, [record, column], NaN for null;
    with so many columns of what is `carried`, null for a record that carries nothing."""
    passages = len(records[0].tokens)
    arrays: list[Any] = [
        [record.origin.row for record in records],
        [record.id for record in records],
        [record.origin.source for record in records],
        *(
            [record.carried[index] if record.carried else None for record in records]
            for index in range(carried)
        ),
        *([len(record.tokens[index]) for record in records] for index in range(passages)),
    ]
    fields = list(schema)
    lead = [pa.array(array, field.type) for array, field in zip(arrays, fields, strict=False)]
    metrics = [_array(values[:, index], column) for index, column in enumerate(columns)]
    return pa.Table.from_arrays([*lead, *metrics], schema=schema)


def _array(values: npt.NDArray[np.floating], column: Column) -> pa.Array:
    missing = np.isnan(values)
    if column.type == "category":
        codes = pa.array(np.where(missing, 0, values).astype(np.int8), mask=missing)
        return pa.DictionaryArray.from_arrays(codes, pa.array(column.categories))
    if column.type == "int32":
        return pa.array(np.where(missing, 0, values).astype(np.int32), mask=missing)
    return pa.array(values.astype(column.type), mask=missing)
