"""What streamer says about texts, by column, as tests compare it with a reference."""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence

import numpy as np

from streamer.batches import Result, Window
from streamer.computing.worker import Worker
from streamer.embedded import RECORDS
from streamer.loading.tokenizing import Tokenizing, tokenize
from streamer.records import Origin, Record, TokenizedRecord
from streamer.tables import METRICS, REJECTED, Column, RunTables, metrics_of
from support.agreement import Rounding

ROUNDING = {"float32": Rounding(1e-5, 1e-6), "float64": Rounding(1e-9, 1e-9)}
Texts = Sequence[str]
Measured = dict[str, float | str | None]


def contrast_texts() -> list[Texts]:
    """The passages of the embedded records."""
    files = [json.loads(path.read_text("utf-8")) for path in sorted(RECORDS.glob("*.json"))]
    return [
        (r["prompt"], f"{r['prompt']} {r['fact']}", f"{r['prompt']} {r['hallucination']}")
        for records in files
        for r in records
    ]


def tokenized(worker: Worker, texts: Sequence[Texts]) -> tuple[TokenizedRecord, ...]:
    records = [
        Record(Origin(row, "in", row, row, row + 1), b"", str(row), (), tuple(passages))
        for row, passages in enumerate(texts)
    ]
    model = worker.model
    how = Tokenizing(model.tokenizer, worker.bos_id, model.context, "reject", model.vocabulary)
    return tuple(r for r in tokenize(records, how) if isinstance(r, TokenizedRecord))


def measured(worker: Worker, texts: Sequence[Texts], size: int) -> list[Measured]:
    """What streamer says about each record, in batches of `size`."""
    records = tokenized(worker, texts)
    window = Window(0, len(records))
    with exactly(worker):
        rows = [
            row
            for start in range(0, len(records), size)
            for row in rows_of(
                worker, worker.process(worker.batch(window, records[start : start + size]))
            )
        ]
    assert len(rows) == len(texts)
    return rows


def rows_of(worker: Worker, result: Result) -> list[Measured]:
    """The measurements of a result."""
    names = [column.name for column in worker.columns]
    return result.tables[METRICS.name].select(names).to_pylist()


@contextlib.contextmanager
def exactly(worker: Worker) -> Iterator[None]:
    """While inside, `worker` gives its numbers in float64."""
    tables = worker.tables
    worker.tables = RunTables([metrics_of(exact=True), REJECTED], tables.layout)
    try:
        yield
    finally:
        worker.tables = tables


def named(columns: Sequence[Column], row: Sequence[float]) -> Measured:
    """A row of values by column, with null for NaN and classes by their name."""
    found: Measured = {}
    for column, value in zip(columns, row, strict=True):
        known = column.categories[int(value)] if column.categories and value >= 0 else value
        found[column.name] = None if math.isnan(value) else known
    return found


def record(row: int, *lengths: int) -> TokenizedRecord:
    """Of random passages, which share no tokens."""
    random = np.random.default_rng(row)
    tokens = tuple(random.integers(5, 4000, n).astype(np.int32) for n in lengths)
    return TokenizedRecord(Origin(row, "in", row, row, row + 1), b"raw", str(row), (), tokens)
