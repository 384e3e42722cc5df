"""What it takes to add a table: this one has a row for each passage with many active features."""

import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from streamer.computing.load import load_worker
from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.results.check.audit import check
from streamer.results.check.leftovers import repair
from streamer.running.prepare import prepare
from streamer.tables import METRICS, REJECTED, TABLES, Layout, Rows, Table
from streamer.writing.storage.local import LocalStorage
from support.inputs import inputs
from support.made_runs import MadeRun
from support.processes import GOOD, Popen
from support.runs import run_with

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("passage", pa.string()),
        ("features", pa.int64()),
        ("energy", pa.float64()),
    ]
)
MANY = 44


def dense(layout: Layout) -> Rows:
    """Passages with at least `MANY` active features at the first layer: none, one or more of each
    record."""

    def take(activations):
        layer = activations.layers[0]
        return layer.l0, layer.energy

    def of_records(records, taken):
        l0, energy = taken
        record, passage = np.nonzero(l0 >= MANY)
        columns = [
            np.array([one.origin.row for one in records])[record],
            np.array(layout.passages)[passage],
            l0[record, passage],
            energy[record, passage],
        ]
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], SCHEMA)

    return Rows(SCHEMA, take, of_records)


DENSE = Table("dense", SCHEMA, dense)
ALL = (*TABLES, DENSE)
SETTINGS = {"window": 5, "part_rows": 5, "batch_size": 1, "deterministic": True}
KILLED = """
import functools, sys
sys.path.insert(0, {here!r})
import streamer
from streamer.running import prepare
from support.killing import KillingStorage
from test_table import ALL

prepare.LocalStorage = functools.partial(KillingStorage, die_at={die_at!r})
streamer.run(streamer.RunConfig(**{settings!r}), tables=ALL)
"""


@pytest.fixture(scope="module")
def worker():
    return load_worker(RunConfig(), "contrast", ALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    long, sparse = (
        GOOD.replace("The sky is", prompt)
        for prompt in ("In summer the sky over the hills is", "Most people say that the sky is")
    )
    lines = f"{GOOD}{long}rubbish\n{sparse}{GOOD}" * 3 + f"{sparse}rubbish\n{sparse}{sparse}"
    (folder / "in.jsonl").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def whole(folder, worker):
    run, _ = run_with(worker, ALL, paths=[str(folder / "in.jsonl")], out=folder / "RUN", **SETTINGS)
    return run


def fault_of(path: Path, tables: tuple[Table, ...] = ALL) -> str | None:
    return check(LocalStorage(path), True, lambda _: None, tables).first_fault


def test_its_rows_are_in_input_order_and_those_of_a_record_in_their_own(whole):
    table = whole.table("dense")
    assert table["row"].to_pylist() == [
        first + row for first in (0, 5, 10) for row in (0, 0, 1, 4, 4)
    ]
    assert table["passage"].to_pylist() == ["fact", "hall", "fact", "fact", "hall"] * 3
    metrics = {row["row"]: row for row in whole.table("metrics").to_pylist()}
    for row in table.to_pylist():
        measured, layer = metrics[row["row"]], f"l1_{row['passage']}"
        assert row["features"] == measured[f"{layer}_l0_norm"]
        assert row["energy"] == pytest.approx(measured[f"{layer}_energy"], rel=1e-6)


def test_it_has_no_part_where_it_has_no_row(whole):
    assert [part.name for part in whole.parts("dense")] == [
        part.name for part in whole.parts("metrics")[:3]
    ]


@pytest.mark.parametrize("tables", [ALL, TABLES], ids=["known", "unknown"])
def test_it_is_checked_like_the_others(whole, tables):
    assert fault_of(whole.path, tables) is None


@pytest.mark.parametrize(
    "die_at",
    [
        f"{step} dense/part-00001.parquet"
        for step in ("created", "finished", "renamed", "published")
    ],
)
def test_a_run_killed_while_it_is_written_goes_on_to_the_same_rows(
    die_at, whole, folder, worker, tmp_path
):
    settings = {"paths": [str(folder / "in.jsonl")], "out": tmp_path / "RUN", **SETTINGS}
    script = KILLED.format(
        here=str(Path(__file__).parent),
        die_at=die_at,
        settings={**settings, "out": str(settings["out"]), "progress": "none"},
    )
    assert Popen([sys.executable, "-c", script], cwd=tmp_path).wait() == -signal.SIGKILL
    assert fault_of(tmp_path / "RUN") is None
    run, _ = run_with(worker, ALL, **settings)
    assert fault_of(run.path) is None
    for table in ALL:
        assert run.table(table.name) == whole.table(table.name)


def test_what_a_crash_left_of_it_is_removed(whole, tmp_path):
    run = copy_of(whole, tmp_path)
    run.manifest(status="running", counts={})
    for table, number in (("metrics", 3), ("rejected", 3), ("metrics", 2)):
        run.drop(table, number)
    assert fault_of(run.path) is None
    assert repair(run.storage, ALL) == ["dense/part-00002.parquet", "rejected/part-00002.parquet"]
    assert run.part("dense", 1).exists()


def lose(run: MadeRun) -> None:
    run.drop("dense", 1)


def flip(run: MadeRun) -> None:
    part = run.part("dense", 1)
    chunk = pq.read_metadata(part).row_group(0).column(3)
    data = bytearray(part.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 1
    part.write_bytes(data)


def lose_rows(run: MadeRun) -> None:
    run.rewrite("dense", 1, lambda rows: rows.slice(1))


def shift_rows(run: MadeRun) -> None:
    run.rewrite(
        "dense", 1, lambda rows: rows.set_column(0, "row", pc.add(rows["row"], pa.scalar(5)))
    )


def reverse_rows(run: MadeRun) -> None:
    run.rewrite("dense", 1, lambda rows: rows.take(list(range(rows.num_rows))[::-1]))


def widen(run: MadeRun) -> None:
    for number in range(3):
        run.rewrite("dense", number, lambda rows: rows.append_column("more", rows["row"]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose, r"dense/part-00001.parquet is missing"),
        (flip, r"dense/part-00001.parquet: row group 0 cannot be read"),
        (lose_rows, r"dense/part-00001.parquet has 4 rows; the footer of .* says 5"),
        (shift_rows, r"dense/part-00001.parquet has row 10, though it covers 5 to 9"),
        (reverse_rows, r"dense/part-00001.parquet has row 6 after row 9: not in order"),
        (widen, r"dense/part-00000.parquet: its columns are not those of dense"),
    ],
)
def test_a_damage_to_it_is_named(whole, tmp_path, damage, message):
    run = copy_of(whole, tmp_path)
    damage(run)
    assert (fault := fault_of(run.path))
    assert pc.match_substring_regex(pa.array([fault]), message)[0].as_py(), fault


def test_a_run_does_not_go_on_without_it_or_with_another(whole, worker, tmp_path):
    run = copy_of(whole, tmp_path)
    run.manifest(status="stopped")
    with pytest.raises(UsageError, match="its tables were dense, metrics, rejected and are"):
        run_with(worker, TABLES, paths=whole.manifest["config"]["paths"], out=run.path, **SETTINGS)


def copy_of(run, folder: Path) -> MadeRun:
    """A copy of a run directory, to be damaged."""
    for file in run.path.rglob("*"):
        if file.is_file():
            to = folder / "RUN" / file.relative_to(run.path)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(file.read_bytes())
    return MadeRun(folder / "RUN", Path(run.manifest["config"]["paths"][0]))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([REJECTED], "one must lead, whose parts make the commits, and none do"),
        ([METRICS], "one must be counted as rejected, and none are"),
        ([*TABLES, replace(REJECTED, name="more")], "counted as rejected, and rejected, more are"),
        ([*TABLES, DENSE, DENSE], "dense is there twice"),
        ([*TABLES, replace(DENSE, name="shards")], "'shards' cannot be a folder's name"),
        ([*TABLES, replace(DENSE, name="../x")], "'../x' cannot be a folder's name"),
        (
            [METRICS, replace(REJECTED, schema=pa.schema([("row", pa.int64())]))],
            "rejected is counted, and has no source",
        ),
    ],
)
def test_tables_that_make_no_run_are_told(tmp_path, tables, message):
    settings = inputs(tmp_path, 1)
    with pytest.raises(UsageError, match=re.escape(message)):
        prepare(RunConfig(**settings), tables=tables)
    assert not (tmp_path / "RUN").exists()
