"""What the columns say of themselves."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from streamer.embedded import SAES
from streamer.tables import TABLES, Layout, RunTables
from streamer.tables.metrics import FAMILIES, columns_of
from support.runs import run_with

LAYOUT = Layout((1, 3, 5), ("prompt", "fact", "hall"), (8, 8, 8))
COLUMNS = {column.name: column for column in columns_of(FAMILIES, LAYOUT)}
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def documented(what: str) -> dict[str, str]:
    """The unit or the definition of every metric that docs/metrics.md lists, by the name that a
    column has without its layer and passage."""
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
                units[name] = cells[headings.index(what)]
    return units


def test_every_metric_is_documented_with_its_unit():
    assert documented("unit") == {column.metric: column.unit for column in COLUMNS.values()}


def test_every_metric_is_defined_in_the_document_as_in_its_column():
    for metric, documented_as in documented("definition").items():
        said = {column.definition for column in COLUMNS.values() if column.metric == metric}
        sides = documented_as.replace("hallucination", "hall").split(" − ")
        name = metric.removesuffix("_diff")
        of_sides = " − ".join(f"{name}_{side}" for side in sides)
        assert said == {documented_as if name == metric else of_sides}


def test_every_column_of_every_table_says_what_it_is():
    layout = Layout((1, 3, 5), ("prompt", "fact", "hall"), (8, 8, 8), {"n": "int64"})
    for rows in RunTables(TABLES, layout).rows.values():
        for field in rows.schema:
            said = {key.decode(): value.decode() for key, value in field.metadata.items()}
            assert said["description"] and said["definition"] and said["unit"], field.name
            column = COLUMNS.get(field.name)
            if column is not None:
                assert said["unit"] == (column.unit or "none")
                assert said["layer"] == ", ".join(map(str, column.layers))
                assert said.get("passage") == column.passage


def test_the_layer_of_a_column_of_the_record_is_known():
    layers = {column.metric: column.layers for column in COLUMNS.values() if column.layer is None}
    two = {metric: at for metric, at in layers.items() if metric.startswith("cross_layer")}
    assert set(two.values()) == {(3, 5)}
    assert {at for metric, at in layers.items() if metric not in two} == {(1,)}


def test_a_copied_part_explains_itself(tmp_path):
    settings = {"limit": 3, "noise_std": 0.2, "deterministic": True}
    run, _ = run_with(None, out=tmp_path / "RUN", **settings)
    (part,) = run.parts("metrics")
    copy = part.rename(tmp_path / "copy.parquet")
    file = pq.ParquetFile(copy)
    schema, notes = file.schema_arrow, json.loads(file.metadata.metadata[b"streamer"])
    field = schema.field("cross_layer_reconstruction_cosine_fact").metadata
    assert field[b"definition"].startswith(b"cosine of sae.decode(f) at the second layer")
    assert (field[b"layer"], field[b"passage"], field[b"unit"]) == (b"3, 5", b"fact", b"none")
    assert b"sae.encode(x)" in schema.metadata[b"symbols"]
    origin = notes["origin"]
    assert origin["model"] == run.manifest["model"]
    assert origin["saes"] == run.manifest["saes"]
    assert [one["location"] for one in origin["saes"]] == [SAES.format(layer=n) for n in (1, 3, 5)]
    assert origin["versions"] == run.manifest["versions"]
    assert (origin["settings"]["noise_std"], origin["settings"]["noise_draws"]) == (0.2, 8)


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
    assert bool(column.parts) == (column.tolerance.of == "parts")
    for part in column.parts:
        assert COLUMNS[part].unit == column.unit
        assert COLUMNS[part].discrete == column.discrete
        assert COLUMNS[part].tolerance.float32 == column.tolerance.float32
        assert set(COLUMNS[part].rests_on) <= set(column.rests_on)
    if column.type != "float32":
        assert column.discrete
    if column.unit == "degrees":
        assert column.tolerance.of in ("radian", "parts")
