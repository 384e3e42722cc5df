"""What the displays say, and what they say it from."""

import dataclasses
import io
from pathlib import Path

import pyarrow as pa
import torch
from rich.console import Console

from streamer.concurrency.queues import Queue
from streamer.device.memory import Memory, memory
from streamer.monitoring.counters import Counters
from streamer.monitoring.display import as_text, line, render
from streamer.monitoring.observer import Observer
from streamer.records import Counts
from streamer.results.summary import (
    KEPT_DOMAINS,
    OTHERS,
    DomainMeans,
    RowTotals,
    Summary,
    print_summary,
)
from streamer.tables import TABLES, Column, Layout, RunTables
from support.snapshots import NOW


def test_the_line_is_as_promised():
    assert line(NOW) == (
        "Progress: 80/200 samples | Rate: 8.5 samples/sec | ETA: 14s | Peak memory: 1.2 GB"
    )
    open_end = dataclasses.replace(NOW, total=None, seconds_left=None)
    assert "80/? samples" in line(open_end)
    assert "ETA: ?" in line(open_end)
    on_gpu = dataclasses.replace(
        NOW, total_is_known=False, seconds_left=7200.0, memory=Memory(1, 2 * 10**9, 3, 4 * 10**9)
    )
    assert "80/~200 samples" in line(on_gpu)
    assert "ETA: 2:00:00 | Peak memory: 2.0 GB, device 4.0 GB" in line(on_gpu)


def test_the_display_shows_every_number_and_names_the_slowest_stage():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(render(NOW, "title"))
    text = console.export_text()
    for part in (
        "40%",
        "80/200",
        "8.5 records/s",
        "512 tokens/s",
        "14s to go",
        "loaded  50%",
        "compute holds the others back",
        "16 records",
        "rejected 3",
        "peak 1.2 GB",
    ):
        assert part in text, text


def test_what_a_run_waits_for_is_shown_in_line_and_display():
    waiting = dataclasses.replace(NOW, note="disk full: waiting")
    assert line(waiting) == f"{line(NOW)} | disk full: waiting"
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(render(waiting, "title"))
    assert "note  disk full: waiting" in console.export_text()


def test_the_total_is_estimated_by_bytes_until_the_input_ends():
    counters = Counters(bytes_total=1000)
    assert counters.total() is None
    counters.bytes_read, counters.records_in = 250, 50
    counters.session = Counts(records=20)
    assert counters.total() == 200
    assert counters.fraction() == 0.1
    assert counters.seconds_left(rate=9.0) == 20
    counters.limit = 100
    assert counters.total() == 100
    counters.records_total = 60
    assert counters.total() == 60
    assert Counters(records_total=0).fraction() == 1.0


def test_work_counts_for_its_stage_also_while_it_goes_on():
    counters = Counters()
    with counters.busy("compute"):
        within = counters.busy_so_far()
    after = counters.busy_so_far()
    assert 0 < within["compute"] <= after["compute"]
    assert counters.busy_so_far() == after
    assert after["load"] == 0


def test_the_device_is_as_fast_as_it_was_while_it_worked():
    counters = Counters()
    counters.begin_at(Counts(records=50))
    assert counters.per_second == 0
    counters.started -= 3600  # most of which nothing came
    counters.busy_seconds["compute"] = 2.0
    counters.session += Counts(records=100)
    assert counters.per_second == 50


def test_a_look_sees_queues_and_memory():
    queue: Queue[int] = Queue("loaded", 10)
    now = Observer(Counters(), [queue], torch.device("cpu")).look()
    assert now.fill == {"loaded": 0.0}
    assert 0 < now.memory.process <= now.memory.process_peak
    assert memory(torch.device("cpu")).device is None


def test_the_summary_counts_every_reason_and_says_how_to_go_on():
    counters = Counters()
    counters.begin_at(Counts(records=30, rows=8, rejected=22))
    rows = RowTotals(RunTables(TABLES, Layout((1,), ("text",), (8,))))
    rows.add({"rejected": pa.table({"reason": [f"reason {n}: at byte {n}" for n in range(22)]})})
    summary = Summary(Path("RUN"), 2, counters, 1.0, Memory(1, 2, None, None), rows)
    console = Console(width=120, record=True, file=io.StringIO())
    print_summary(summary, console)
    text = console.export_text()
    for part in (
        "8 measured, 22 rejected; 30 of them in earlier sessions",
        "1 × reason 9",
        "12 for 12 other reasons",
        "each with its reason in RUN/rejected",
        "open_run('RUN').table('metrics')",
        "streamer resume RUN",
    ):
        assert part in text, text


def test_memory_is_told_as_people_read_it():
    assert [as_text(size) for size in (12, 3_400, 650_000_000, 1.24e9)] == [
        "12 B", "3 KB", "650 MB", "1.2 GB",
    ]  # fmt: skip


def test_means_by_domain_leave_out_nulls_and_stay_bounded():
    sides = [
        Column(f"entropy_{passage}", metric="entropy", passage=passage)
        for passage in ("fact", "hall")
    ]
    means = DomainMeans(sides)
    for drift in (1.0, None, 5.0):
        means.add(pa.table({"domain": ["a"], "entropy_fact": pa.array([drift], pa.float32()),
                            "entropy_hall": pa.array([1.0], pa.float32())}))  # fmt: skip
    assert means.mean("a", "entropy_fact") == 3.0
    assert means.mean("a", "entropy_hall") == 1.0
    assert means.records["a"] == 3
    many = [str(n) for n in range(2 * KEPT_DOMAINS)]
    means.add(pa.table({"domain": many, "entropy_fact": [1.0] * len(many)}))
    assert len(means.records) == KEPT_DOMAINS + 1
    assert sum(means.records.values()) == 3 + len(many)
    assert means.records[OTHERS] > 0
