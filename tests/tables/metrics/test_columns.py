"""What the columns say of themselves."""

import re
from pathlib import Path

import pytest

from streamer.tables import Layout
from streamer.tables.metrics import FAMILIES, columns_of

LAYOUT = Layout((1, 3, 5), ("prompt", "fact", "hall"), (8, 8, 8))
COLUMNS = {column.name: column for column in columns_of(FAMILIES, LAYOUT)}
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def documented() -> dict[str, str]:
    """The unit of every metric that docs/metrics.md lists, by the name that a column has without
    its layer and passage."""
    units = {}
    headings: list[str] = []
    for line in DOCUMENT.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            headings = []
        elif not headings:
            headings = cells
        elif "unit" in headings and not cells[0].startswith("-"):
            for name in re.findall(r"`(\w+?)(?:_\{[\w,]+\})?`", cells[0]):
                units[name] = cells[headings.index("unit")]
    return units


def test_every_metric_is_documented_with_its_unit():
    assert documented() == {column.metric: column.unit for column in COLUMNS.values()}


def test_a_column_is_named_after_what_it_says():
    for column in COLUMNS.values():
        layer = "" if column.layer is None else f"l{column.layer}_{column.passage}_"
        suffix = f"_{column.passage}" if column.passage and not layer else ""
        assert column.name == f"{layer}{column.metric}{suffix}"


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_a_column_rests_on_counts_and_a_difference_has_parts_of_its_unit(column):
    assert column.rests_on
    for count in column.rests_on:
        assert COLUMNS[count].unit == "features"
        assert COLUMNS[count].discrete
    assert bool(column.parts) == (column.rounding == "parts")
    for part in column.parts:
        assert COLUMNS[part].unit == column.unit
        assert COLUMNS[part].discrete == column.discrete
        assert set(COLUMNS[part].rests_on) <= set(column.rests_on)
    if column.type != "float32":
        assert column.discrete
    if column.unit == "degrees":
        assert column.rounding in ("radian", "axis", "parts")
