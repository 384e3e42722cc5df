"""The same records make the same numbers, whatever ran beside them, before them or at once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.embedded import LAYERS, MODEL, RECORDS, SAES
from streamer.records import PASSAGES
from streamer.results.run import Run
from support.agreement import Rounding, disagreements
from support.reference import Value
from support.reference_rows import Reference
from support.runs import run_with

COUNT = 20
ROUNDING = Rounding(1e-5, 1e-6)
Lines = list[dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def deterministic_worker() -> Worker:
    return load_worker(RunConfig(deterministic=True), "contrast")


@pytest.fixture(scope="module")
def lines() -> Lines:
    """Embedded records of every domain, some of them twice, and a long one."""
    files = [json.loads(path.read_text("utf-8")) for path in sorted(RECORDS.glob("*.json"))]
    found = [record for records in files for record in records][:: 200 // COUNT]
    long = " ".join(record["prompt"] for record in found[:15])
    found = [*found, found[3], found[3], {**found[0], "prompt": long}]
    return [{**record, "id": str(place)} for place, record in enumerate(found)]


@pytest.fixture(scope="module")
def expected(lines: Lines) -> list[dict[str, Value]]:
    """Every record alone, in float64, by other means."""
    reference = Reference(MODEL, SAES, LAYERS, PASSAGES["contrast"])
    return [
        reference.record(
            (one["prompt"], *(f"{one['prompt']} {one[role]}" for role in ("fact", "hallucination")))
        )
        for one in lines
    ]


def write(folder: Path, lines: Lines) -> list[str]:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [str(path)]


def parts(run: Run) -> list[bytes]:
    return [path.read_bytes() for path in sorted((run.path / "metrics").glob("*.parquet"))]


def by_id(run: Run, names: Any) -> list[dict[str, Any]]:
    """What was measured of each record, in the order of their ids."""
    rows = sorted(run.table("metrics").to_pylist(), key=lambda row: int(row["id"]))
    return [{name: row[name] for name in names} for row in rows]


def test_a_deterministic_run_twice_writes_the_same_bytes(tmp_path, deterministic_worker):
    settings = {"deterministic": True, "limit": 50, "window": 16}
    one, other = (
        run_with(deterministic_worker, out=tmp_path / name, **settings)[0] for name in ("1", "2")
    )
    assert parts(one)
    assert parts(one) == parts(other)


def test_a_deterministic_runs_batches_do_not_depend_on_time(
    tmp_path, deterministic_worker, monkeypatch
):
    """As a slow start or a slow reader would have it: the device stands idle all the time."""
    sizes: list[list[int]] = []
    launch = deterministic_worker.launch

    def look(batch):
        sizes[-1].append(len(batch.records))
        return launch(batch)

    monkeypatch.setattr(deterministic_worker, "launch", look)
    monkeypatch.setattr("streamer.loading.loader.CHUNK_RECORDS", 8)
    for idle in (0.0, 1.0):
        sizes.append([])
        seconds = property(lambda _, idle=idle: idle)
        monkeypatch.setattr("streamer.concurrency.queues.Queue.starved_seconds", seconds)
        run_with(deterministic_worker, out=tmp_path / str(idle), deterministic=True, limit=40)
    assert sizes[0] == sizes[1]
    assert sum(sizes[0]) == 40


def test_one_stage_after_another_measures_what_all_at_once_do(tmp_path, lines):
    settings = {"paths": write(tmp_path, lines), "max_tokens": 200, "window": 10}
    one, other = (
        run_with(None, out=tmp_path / str(overlap), overlap=overlap, **settings)[0]
        for overlap in (True, False)
    )
    names = one.table("metrics").column_names
    assert other.table("metrics")["row"].to_pylist() == list(range(len(lines)))
    skipped = {"row", "id", "domain", "source"}
    for name in names:
        found, wanted = (run.table("metrics")[name].to_pylist() for run in (other, one))
        if name in skipped or isinstance(wanted[0], str | int):
            assert found == wanted, name
        else:
            assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 1},
        {"batch_size": 7, "window": 9},
        {"max_tokens": 60, "window": 5},
        {"max_tokens": 5000, "deterministic": True},
        {"sharing": "prefix", "max_tokens": 300},
        {"sharing": "none", "batch_size": 5},
        {"sharing": "none", "overlap": False},
    ],
    ids=str,
)
def test_what_runs_beside_a_record_is_no_matter(
    tmp_path, embedded_worker, lines, expected, settings
):
    shuffled = [lines[place] for place in np.random.default_rng(0).permutation(len(lines))]
    worker = embedded_worker("contrast")
    if "sharing" in settings:
        worker = load_worker(RunConfig(sharing=settings["sharing"]), "contrast")
    run, _ = run_with(worker, paths=write(tmp_path, shuffled), out=tmp_path / "RUN", **settings)
    assert run.manifest["model"]["sharing"] == settings.get("sharing", "trie")
    found = by_id(run, expected[0])
    assert disagreements(expected, found, ROUNDING) == []


def test_equal_records_have_equal_noise_wherever_they_stand(tmp_path, lines):
    run, _ = run_with(None, paths=write(tmp_path, lines), out=tmp_path / "RUN", batch_size=4)
    stable = by_id(run, ["stability_prompt", "stability_fact", "stability_hall"])
    assert stable[3] == stable[COUNT] == stable[COUNT + 1]
