"""The manifest names the columns of every table; a run whose manifest does not is read as well."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamer
from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.results.check.audit import check
from streamer.results.run import Run, open_run
from support.inputs import LINE
from support.made_runs import notes_of, write_part
from support.runs import run_with

TABLES = ("metrics", "rejected")


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [LINE.format("sky ", row) for row in range(6)]
    (tmp_path / "in.jsonl").write_text("".join([*lines[:3], "rubbish\n", *lines[3:]]))
    return {"paths": ["in.jsonl"], "out": tmp_path / "RUN", "deterministic": True}


def rewrite(run: Run, **entries) -> None:
    """Replace `entries` in the manifest; None removes one."""
    manifest = {k: v for k, v in (run.manifest | entries).items() if v is not None}
    (run.path / "manifest.json").write_text(json.dumps(manifest))


def fault_of(run: Run) -> str | None:
    return check(run.storage, True, lambda _: None).first_fault


def test_the_manifest_names_the_columns_of_every_table(settings):
    run, _ = run_with(None, **settings)
    for name in TABLES:
        assert run.manifest["tables"][name] == run.table(name).column_names
    measured = run.manifest["columns"]
    assert run.manifest["tables"]["metrics"][-len(measured) :] == measured


@pytest.mark.parametrize("table", TABLES)
def test_a_table_with_other_columns_than_the_manifest_names_is_a_fault(settings, table):
    run, _ = run_with(None, **settings)
    assert fault_of(run) is None
    columns = run.manifest["tables"]
    rewrite(run, tables=columns | {table: ["row", "more", *columns[table][1:]]})
    assert f"{table}/part-00000.parquet: its columns are not those that" in str(fault_of(run))


@pytest.mark.parametrize("table", TABLES)
def test_a_run_does_not_go_on_with_other_columns(settings, table):
    run, _ = run_with(None, limit=4, **settings)
    columns = run.manifest["tables"]
    rewrite(run, tables=columns | {table: [*columns[table], "more"]}, status="stopped")
    with pytest.raises(
        UsageError, match=f"its table {table}, .* has the columns more, which are not"
    ):
        run_with(None, limit=4, **settings)


def without(run: Run, *names: str) -> None:
    """Take these columns out of the parts of `metrics` and out of the manifest, as a version wrote
    them that did not know them, nor what it now says of its columns."""
    for part in run.parts("metrics"):
        rows, notes = pq.read_table(part).drop_columns(list(names)), notes_of(part)
        bare = pa.schema([field.remove_metadata() for field in rows.schema])
        write_part(part, rows.cast(bare), {k: v for k, v in notes.items() if k != "origin"})
    tables, columns = run.manifest["tables"], run.manifest["columns"]
    kept = {name: [one for one in had if one not in names] for name, had in tables.items()}
    columns = [one for one in columns if one not in names]
    rewrite(run, tables=kept, columns=columns, status="stopped")


NEW = ("entropy_all_prompt", "cross_layer_reconstruction_cosine_diff")


@pytest.mark.parametrize("fewer", [(), NEW])
@pytest.mark.parametrize("names_tables", [True, False])
def test_a_run_of_a_version_with_fewer_columns_goes_on_with_those(settings, fewer, names_tables):
    settings |= {"part_rows": 2, "window": 2}
    run, _ = run_with(None, **settings)
    expected = run.table("metrics").drop_columns(list(fewer))
    assert len(run.parts("metrics")) > 2
    for part in [*run.parts("metrics"), *run.parts("rejected")]:
        if part.stem > "part-00001":
            part.unlink()
    without(run, *fewer)
    if not names_tables:  # as the first versions
        rewrite(open_run(run.path), tables=None)
    run = streamer.run(RunConfig(progress="none", **settings))
    assert fault_of(run) is None
    assert run.table("metrics").equals(expected)
    assert not set(fewer) & set(run.manifest["columns"])
    said = ["origin" in notes_of(part) for part in run.parts("metrics")]
    assert said == [False, False] + [True] * (len(said) - 2)


def test_a_run_of_fewer_columns_that_has_no_rows_yet_gets_all(settings):
    run, _ = run_with(None, **settings)
    for part in [*run.parts("metrics"), *run.parts("rejected")]:
        part.unlink()
    columns = run.manifest["columns"]
    rewrite(run, tables=None, columns=[one for one in columns if one not in NEW], status="stopped")
    run = streamer.run(RunConfig(progress="none", **settings))
    assert run.manifest["columns"] == columns


def test_a_run_whose_manifest_does_not_name_them_is_checked_and_goes_on(settings):
    run, _ = run_with(None, limit=4, **settings)
    rewrite(run, tables=None, status="stopped")
    assert fault_of(run) is None
    run, _ = run_with(None, limit=4, **settings)
    assert set(run.manifest["tables"]) == set(TABLES)
    assert fault_of(open_run(run.path)) is None
