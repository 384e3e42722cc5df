"""Part files: whole or not there, with footers that say what they cover."""

import json
import pickle
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamer
from streamer.errors import RunFault, UsageError
from streamer.tables import Column, Layout
from streamer.tables.metrics.table import metrics_schema
from streamer.writing.directory import RunDirectory
from streamer.writing.event_log import EventLog
from streamer.writing.parts import BUFFERED_BYTES, PartWriter
from streamer.writing.storage.local import LocalStorage
from support.made_runs import notes_of
from support.runs import run_with

SCHEMA = pa.schema([("row", pa.int64())])
GOOD = '{"prompt": "The sky is", "fact": "blue", "hallucination": "green"}'


def rows(*values: int) -> pa.Table:
    return pa.table({"row": values}, schema=SCHEMA)


def test_a_part_is_not_seen_before_it_is_whole(tmp_path):
    parts = PartWriter(LocalStorage(tmp_path), "metrics", SCHEMA, row_group_rows=2)
    parts.append(rows(0, 1, 2))
    assert list(tmp_path.glob("*/*.parquet")) == []
    assert parts.bytes > 0
    parts.finish({"first_row": 0, "end_row": 3})
    assert list(tmp_path.glob("*/*.parquet")) == []
    path = tmp_path / parts.publish()
    assert list(tmp_path.glob("*/*")) == [path]
    assert pq.read_table(path) == rows(0, 1, 2)
    assert notes_of(path) == {"first_row": 0, "end_row": 3}


def test_row_groups_reach_the_file_as_they_fill(tmp_path):
    parts = PartWriter(LocalStorage(tmp_path), "metrics", SCHEMA, row_group_rows=2)
    for first in range(0, 6, 2):
        parts.append(rows(first, first + 1))
    parts.finish({})
    path = tmp_path / parts.publish()
    metadata = pq.read_metadata(path)
    assert metadata.num_row_groups == 3
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_large_rows_reach_the_file_however_few_they_are(tmp_path):
    schema = pa.schema([("raw", pa.binary())])
    parts = PartWriter(LocalStorage(tmp_path), "metrics", schema, row_group_rows=4096)
    for _ in range(5):
        parts.append(pa.table({"raw": [bytes(5_000_000)]}, schema=schema))
    assert list(tmp_path.glob("metrics/*"))
    assert parts.bytes < BUFFERED_BYTES


def test_two_columns_never_have_one_name():
    with pytest.raises(UsageError, match="two columns would be called m"):
        metrics_schema(Layout((1,), ("text",), (8,), {"m": "int64"}), [Column("m")])


def test_an_abandoned_part_leaves_nothing(tmp_path):
    parts = PartWriter(LocalStorage(tmp_path), "metrics", SCHEMA, row_group_rows=1)
    parts.finish({})
    parts.publish()
    parts.begin(1)
    parts.append(rows(0, 1))
    parts.abandon()
    assert [path.name for path in tmp_path.glob("*/*")] == ["part-00000.parquet"]


def test_the_schema_is_record_then_tokens_then_metrics():
    columns = [Column("m", "float32"), Column("n", "int32"), Column("c", "category", ("A",))]
    carry = {"domain": "string", "k": "int64"}
    schema = metrics_schema(Layout((1,), ("prompt", "fact"), (8,), carry), columns)
    assert [(field.name, str(field.type)) for field in schema] == [
        ("row", "int64"),
        ("id", "string"),
        ("source", "string"),
        ("domain", "string"),
        ("k", "int64"),
        ("prompt_tokens", "int32"),
        ("fact_tokens", "int32"),
        ("m", "float"),
        ("n", "int32"),
        ("c", "dictionary<values=string, indices=int8, ordered=0>"),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    lines = [GOOD, "rubbish", GOOD, GOOD, "{}", GOOD]
    (folder / "in.jsonl").write_text("\n".join(lines))
    run, _ = run_with(
        None,
        paths=[str(folder / "in.jsonl")],
        out=folder / "RUN",
        window=2,
        part_rows=2,
        batch_size=1,
    )
    return run


def test_footers_say_which_rows_are_covered_and_where_reading_would_go_on(run):
    data = (run.path.parent / "in.jsonl").read_bytes()
    covered = {"metrics": [], "rejected": []}
    for table, ranges in covered.items():
        for part in run.parts(table):
            footer = notes_of(part)
            ranges.append((footer["first_row"], footer["end_row"]))
            within = pq.read_table(part)["row"].to_pylist()
            assert all(footer["first_row"] <= row < footer["end_row"] for row in within)
            assert data[: footer["places"][-1]["offset"]].count(b"\n") in (
                footer["end_row"],
                footer["end_row"] - 1,
            )
    assert covered["metrics"] == [(0, 2), (2, 4), (4, 6)]
    assert set(covered["rejected"]) <= set(covered["metrics"])


def test_the_manifest_says_what_was_run(run):
    manifest = run.manifest
    assert manifest["status"] == "finished"
    counts = manifest["counts"]
    assert 0 < counts.pop("tokens_run") < counts.pop("tokens")
    assert counts == {
        "records": 6,
        "rows": 4,
        "rejected": 2,
        "truncated": 0,
        "reruns_in_float32": 0,
        "out_of_memory_splits": 0,
        "model_errors": 0,
    }
    assert manifest["config"]["window"] == 2
    assert manifest["versions"]["streamer"] == streamer.__version__
    assert len(manifest["model"]["files"]) == 64
    assert [sae["layer"] for sae in manifest["saes"]] == [1, 3, 5]
    assert manifest["inputs"][0]["bytes"] == (run.path.parent / "in.jsonl").stat().st_size


def test_the_log_says_what_happened(run):
    events = [json.loads(line)["event"] for line in (run.path / "log.jsonl").open()]
    assert events[0] == "started"
    assert events[-1] == "finished"
    assert "committed" in events


def test_duckdb_and_polars_read_a_run(run):
    import duckdb
    import polars as pl

    pattern = f"{run.path}/metrics/*.parquet"
    query = f"select count(*), any_value(l1_fact_shape_class) from '{pattern}'"
    ((count, shape),) = duckdb.sql(query).fetchall()
    assert count == 4
    frame = pl.read_parquet(pattern)
    assert frame["row"].to_list() == run.table("metrics")["row"].to_pylist() == [0, 2, 3, 5]
    assert frame["l1_fact_shape_class"].cast(pl.String)[0] == shape


def test_a_run_is_never_written_over(run, tmp_path):
    with pytest.raises(UsageError, match="holds a run already"):
        RunDirectory.make(LocalStorage(run.path), EventLog())
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="holds something else already"):
        RunDirectory.make(LocalStorage(tmp_path), EventLog())


def test_a_run_is_a_value(run):
    opened = streamer.open_run(run.path)
    assert pickle.loads(pickle.dumps(opened)) == opened == streamer.open_run(run.path)


def test_a_damaged_part_is_told_by_name(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "RUN")
    damaged = streamer.open_run(tmp_path / "RUN")
    (part, *_) = damaged.parts("metrics")
    part.write_bytes(part.read_bytes()[:-7])
    with pytest.raises(RunFault, match=f"metrics/{part.name} cannot be read: .*check"):
        damaged.table("metrics")


def test_a_number_that_was_changed_on_the_disk_is_not_given_out(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "RUN")
    damaged = streamer.open_run(tmp_path / "RUN")
    (part, *_) = damaged.parts("metrics")
    column = pq.read_metadata(part).row_group(0).column(8)
    data = bytearray(part.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 4] ^= 1
    part.write_bytes(data)
    with pytest.raises(RunFault, match="CRC"):
        damaged.table("metrics")


def test_what_is_no_run_is_told(run, tmp_path):
    with pytest.raises(UsageError, match="no run in"):
        streamer.open_run(tmp_path)
    with pytest.raises(
        UsageError, match="has no finished part of a table 'features'; it has metrics"
    ):
        run.table("features")
