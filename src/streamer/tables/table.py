"""The contract of a table. Order, parts, commits, resuming and checks know nothing else of one.

    activations ─take▶ tensors on the device ─copied with those of all tables▶ arrays on the host
    records + arrays ─of_records▶ rows          rejections ─of_rejections▶ rows

A table says what it is called and which columns it has in every run (`Table`); for the layers and
passages of one run, it says the rest (`Rows`). To add one, write a `Table`, put it into `TABLES`.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streamer.config import CarryType
from streamer.errors import UsageError
from streamer.records import Rejection, TokenizedRecord
from streamer.tables.column import Column

if TYPE_CHECKING:  # torch takes seconds to import, and who checks a run does without
    from torch import Tensor

    from streamer.tables.metrics.activations import Activations

Counted: TypeAlias = Literal["rows", "rejected"]
"""The counts that input rows are divided into."""
Arrays: TypeAlias = Sequence[npt.NDArray[Any]]
_NAME = re.compile(r"(?!shards$)[a-z][a-z0-9_]*")
ROW = "position among all input records of the run, good and bad, from 0"
SOURCE = "the file or URL it was read from"


def described(
    name: str,
    kind: pa.DataType,
    description: str,
    *,
    unit: str = "",
    definition: str = "",
    nullable: bool = True,
    more: Mapping[str, str] | None = None,
) -> pa.Field:
    """The field of a column that says in its metadata what it is: its `description`, `unit` (`none`
    of a plain number, a class or a text) and `definition`, and what there is `more`. The
    description of what is copied is its definition, too."""
    said = {
        "description": description,
        "unit": unit or "none",
        "definition": definition or description,
    }
    return pa.field(name, kind, nullable=nullable, metadata={**said, **(more or {})})


KEYS = pa.schema(
    [
        described("row", pa.int64(), ROW, nullable=False),
        described(
            "id",
            pa.string(),
            "the record's own id",
            definition="the record's own id, or else the stem of its file, a colon and its "
            "position in it, from 0",
            nullable=False,
        ),
        described("source", pa.string(), SOURCE, nullable=False),
    ]
)
"""The first columns of a table with one row a record."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What decides which columns the tables of a run have."""

    layers: tuple[int, ...]
    passages: tuple[str, ...]
    d_sae: tuple[int, ...]
    """Width of each layer's SAE."""
    carry: Mapping[str, CarryType] = field(default_factory=dict)
    """Names and types of the fields that are carried through."""
    only: Collection[str] | None = None
    """Which measurements the table that leads has, if it does not have all: a run that goes on has
    those that it was begun with."""

    @property
    def is_contrast(self) -> bool:
        """Whether there is a fact to compare a hallucination with."""
        return {"fact", "hall"} <= set(self.passages)


def _nothing(_: "Activations") -> "Sequence[Tensor]":
    return ()


@dataclass(frozen=True, slots=True)
class Rows:
    """How the rows of a table are made in a run."""

    schema: pa.Schema
    take: "Callable[[Activations], Sequence[Tensor]]" = _nothing
    """What it takes of a batch: tensors on its device, of any shapes and floating or integer types.
    Must not wait for the device."""
    of_records: Callable[[Sequence[TokenizedRecord], Arrays], pa.Table] | None = None
    """Rows of the records of a batch and what was taken, on the host: none, one or several of each
    record, all with its `row`. Records whose residual is not finite are among them; their rows are
    dropped. None for a table that has no rows of them."""
    of_rejections: Callable[[Sequence[Rejection]], pa.Table] | None = None
    """Rows of what was rejected; None for a table that has no rows of it."""
    columns: tuple[Column, ...] = ()
    """Its measurements, the last columns of the schema."""

    def made(
        self,
        records: Sequence[TokenizedRecord],
        taken: Arrays,
        lost: Sequence[int],
        rejections: Sequence[Rejection],
    ) -> pa.Table:
        """The rows of a batch of `records`, of which was `taken` what is on the host now; without
        those of the `lost`, indices of `records` that are among the `rejections` now."""
        found: list[pa.Table] = []
        if records and self.of_records is not None:
            measured = self.of_records(records, taken)
            if lost:
                gone = pa.array([records[index].origin.row for index in lost], pa.int64())
                measured = measured.filter(pc.invert(pc.is_in(measured["row"], gone)))
            found.append(measured)
        if rejections and self.of_rejections is not None:
            found.append(self.of_rejections(rejections))
        return pa.concat_tables(found) if found else self.schema.empty_table()


@dataclass(frozen=True, slots=True)
class Table:
    """A table, whatever the run."""

    name: str
    """Of its folder in the run directory."""
    schema: pa.Schema
    """The columns that it has in every run, `row` first: the input row that a row is of."""
    rows: Callable[[Layout], Rows]
    """
    :raises UsageError: the fields that are carried through do not go with its columns.
    """
    has_more_columns: bool = False
    """Whether others follow, which depend on the run."""
    leads: bool = False
    """Whether every commit has a part of it, which makes the commit. One table of a run does."""
    counted_as: Counted | None = None
    """What the counts of a run call the number of its rows, if each of them stands for one input
    row and says its `source`: every input row is in one of the tables that have such a name."""
    reason: str | None = None
    """The column that says why a record is in it, as `reason: particulars`, if one does: the
    summary counts the reasons."""


class RunTables:
    """The tables of one run, as whoever computes their rows knows them.

    :raises UsageError: two columns of one would have the same name.
    """

    def __init__(self, tables: Sequence[Table], layout: Layout) -> None:
        self.tables = tuple(tables)
        self.layout = layout
        self.rows: dict[str, Rows] = {table.name: table.rows(layout) for table in tables}
        """By name, in their order."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The measurements of the table that leads."""
        return self.rows[leading(self.tables).name].columns

    def take(self, activations: "Activations") -> "dict[str, Sequence[Tensor]]":
        """What each table takes of a batch, on its device."""
        return {name: rows.take(activations) for name, rows in self.rows.items()}

    def made(
        self,
        records: Sequence[TokenizedRecord],
        taken: Mapping[str, Arrays],
        lost: Sequence[int],
        rejections: Sequence[Rejection],
    ) -> dict[str, pa.Table]:
        """The rows of each table, by name (see `Rows.made`)."""
        return {
            name: rows.made(records, taken[name], lost, rejections)
            for name, rows in self.rows.items()
        }

    def of_rejections(self, rejections: Sequence[Rejection]) -> dict[str, pa.Table]:
        """The rows of each table where no record was measured."""
        return self.made((), dict.fromkeys(self.rows, ()), (), rejections)


def leading(tables: Sequence[Table]) -> Table:
    """The one of `tables` whose parts make the commits."""
    return next(table for table in tables if table.leads)


def check_tables(tables: Sequence[Table]) -> None:
    """Return if a run can put out these tables.

    :raises UsageError: two have one name, none or several lead, or some input rows would be in no
        table, or in two.
    """
    names = [table.name for table in tables]
    found = [f"{name} is there twice" for name in sorted(set(names)) if names.count(name) > 1]
    found += [f"{name!r} cannot be a folder's name" for name in names if not _NAME.fullmatch(name)]
    leads = [table.name for table in tables if table.leads]
    if len(leads) != 1:
        found.append(f"one must lead, whose parts make the commits, and {_listed(leads)} do")
    for what in get_args(Counted):
        counted = [table.name for table in tables if table.counted_as == what]
        if len(counted) != 1:
            found.append(f"one must be counted as {what}, and {_listed(counted)} are")
    found += [
        f"{table.name} is counted, and has no source"
        for table in tables
        if table.counted_as and "source" not in table.schema.names
    ]
    if found:
        raise UsageError(
            f"these tables do not make a run: {'; '.join(found)}. Add to streamer.tables.TABLES, "
            f"or put a table of yours in the place of one of them."
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
