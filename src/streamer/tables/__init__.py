"""What a run puts out. `TABLES` are all of them: to add one, write a `Table` and put it there.

Imports no torch, which takes seconds: who checks a run, or makes a mistake in a command, is not to
wait for it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamer.tables.column import Column
from streamer.tables.rejected import REJECTED
from streamer.tables.table import (
    KEYS,
    Layout,
    Rows,
    RunTables,
    Table,
    check_tables,
    leading,
)

if TYPE_CHECKING:
    from streamer.tables.metrics import Family


def metrics_of(families: "Sequence[Family] | None" = None, *, exact: bool = False) -> Table:
    """The table of these families of metrics, by default of all (`metrics.FAMILIES`); with numbers
    as they were computed if `exact`, else in float32."""

    def rows(layout: Layout) -> Rows:
        from streamer.tables.metrics import FAMILIES  # noqa: PLC0415
        from streamer.tables.metrics.table import metrics_rows  # noqa: PLC0415

        return metrics_rows(FAMILIES if families is None else families, layout, exact=exact)

    return Table(
        name="metrics",
        schema=KEYS,
        has_more_columns=True,
        rows=rows,
        leads=True,
        counted_as="rows",
    )


METRICS = metrics_of()
TABLES: tuple[Table, ...] = (METRICS, REJECTED)

__all__ = [
    "KEYS",
    "METRICS",
    "REJECTED",
    "TABLES",
    "Column",
    "Layout",
    "Rows",
    "RunTables",
    "Table",
    "check_tables",
    "leading",
    "metrics_of",
]
