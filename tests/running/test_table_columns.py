"""The manifest names the columns of every table; a run whose manifest does not is read as well."""

import json

import pytest

from streamer.errors import UsageError
from streamer.results.check.audit import check
from streamer.results.run import Run, open_run
from support.inputs import LINE
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
    return check(run.path, True, lambda _: None).first_fault


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
    with pytest.raises(UsageError, match=f"its table {table} had the columns .*, more, and not"):
        run_with(None, limit=4, **settings)


def test_a_run_whose_manifest_does_not_name_them_is_checked_and_goes_on(settings):
    run, _ = run_with(None, limit=4, **settings)
    rewrite(run, tables=None, status="stopped")
    assert fault_of(run) is None
    run, _ = run_with(None, limit=4, **settings)
    assert set(run.manifest["tables"]) == set(TABLES)
    assert fault_of(open_run(run.path)) is None
