"""Run directories made by hand, to be damaged: real parts with footers, a manifest, an input."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from streamer.concurrency.retry import RetryPolicy
from streamer.loading.identity import identity
from streamer.loading.sources import expand
from streamer.results.check.audit import check
from streamer.results.check.report import Report
from streamer.tables import REJECTED, Column, Layout
from streamer.tables.metrics.table import metrics_schema
from streamer.writing.footers import close_with_footer, read_notes
from streamer.writing.storage.local import LocalStorage

COLUMNS = ("l1_x", "l3_x")
METRICS = metrics_schema(
    Layout((1, 3), ("text",), (8, 8), {"domain": "string"}), [Column(name) for name in COLUMNS]
)
BAD = (2, 3, 6)
"""Input rows that are rejected."""
COMMITS = ((0, 4), (4, 8), (8, 11))


def notes_of(part: Path) -> dict[str, Any]:
    """What the footer of a part says."""
    with pa.OSFile(str(part), "rb") as file:
        return read_notes(file)


@dataclass(frozen=True, slots=True)
class MadeRun:
    """A run directory and its input beside it."""

    path: Path
    input: Path

    @property
    def storage(self) -> LocalStorage:
        """Where its files are."""
        return LocalStorage(self.path)

    def part(self, table: str, number: int) -> Path:
        """The file of a part."""
        return self.path / table / f"part-{number:05d}.parquet"

    def manifest(self, **entries: Any) -> None:
        """Put `entries` into the manifest."""
        file = self.path / "manifest.json"
        said = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(said | entries))

    def footer(self, table: str, number: int, **entries: Any) -> None:
        """Change what the footer of a part says."""
        part = self.part(table, number)
        said = notes_of(part)
        write_part(part, pq.read_table(part), said | entries)

    def rewrite(self, table: str, number: int, change: Callable[[pa.Table], pa.Table]) -> None:
        """Change the rows of a part and leave its footer."""
        part = self.part(table, number)
        said = notes_of(part)
        write_part(part, change(pq.read_table(part)), said)

    def know_input(self) -> None:
        """Say in the manifest that the input was as it is now."""
        self.manifest(inputs=[identity(one, RetryPolicy()) for one in expand([str(self.input)])])

    def drop(self, table: str, number: int) -> None:
        """Remove a part."""
        self.part(table, number).unlink()

    def files(self) -> dict[str, bytes]:
        """All that is in the directory."""
        return {
            str(file.relative_to(self.path)): file.read_bytes()
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
        }


def make_run(
    folder: Path,
    *,
    commits: Sequence[tuple[int, int]] = COMMITS,
    bad: Sequence[int] = BAD,
    row_group: int = 2,
    status: str = "finished",
) -> MadeRun:
    """A run in `folder` that is as it should be."""
    records = commits[-1][1] if commits else 0
    source = folder / "in.jsonl"
    source.write_text("".join(line(row, bad) for row in range(records)))
    run = MadeRun(folder / "RUN", source)
    rows = rejected = 0
    for table in ("metrics", "rejected"):
        (run.path / table).mkdir(parents=True)
    for number, (first, end) in enumerate(commits):
        refused = [row for row in bad if first <= row < end]
        measured = sorted(set(range(first, end)) - set(refused))
        rows, rejected = rows + len(measured), rejected + len(refused)
        footer = {
            "first_row": first,
            "end_row": end,
            "tables": {"metrics": len(measured), "rejected": len(refused)},
            "counts": {"records": end, "rows": rows, "rejected": rejected},
        }
        if refused or number == 0:
            write_part(
                run.part("rejected", number), rejected_rows(refused, source), footer, row_group
            )
        write_part(run.part("metrics", number), metrics_rows(measured, source), footer, row_group)
    run.manifest(
        status=status,
        config={"paths": [str(source)], "limit": None},
        columns=list(COLUMNS),
        versions={"streamer": "0.1.0"},
    )
    run.know_input()
    if status in ("finished", "stopped"):
        run.manifest(counts={"records": records, "rows": rows, "rejected": rejected})
    return run


def make_killed_run(folder: Path) -> MadeRun:
    """A run that was killed after two commits, while it wrote the third."""
    run = make_run(folder)
    run.manifest(status="running", counts={})
    run.drop("metrics", 2)
    (run.path / "metrics/part-00002.parquet.tmp").write_bytes(b"PAR1 half a file")
    footer = {"first_row": 8, "end_row": 10, "tables": {"metrics": 1, "rejected": 1}, "counts": {}}
    write_part(run.part("rejected", 2), rejected_rows([9], run.input), footer)
    return run


def look(run: MadeRun, read_input: bool = True) -> Report:
    """What checking says of it."""
    return check(run.storage, read_input, lambda _: None)


def flip_in_page(run: MadeRun) -> None:
    """Change a byte of the values of metrics/part-00001."""
    part = run.part("metrics", 1)
    chunk = pq.read_metadata(part).row_group(1).column(5)
    data = bytearray(part.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 1
    part.write_bytes(data)


def line(row: int, bad: Sequence[int]) -> str:
    """An input line."""
    return f"rubbish {row}\n" if row in bad else f'{{"text": "text {row}"}}\n'


def metrics_rows(rows: Sequence[int], source: Path) -> pa.Table:
    """Rows of metrics; the measurements are random, so that they do not compress."""
    random = np.random.default_rng(list(rows))
    columns: list[Any] = [
        list(rows),
        [f"in:{row}" for row in rows],
        [str(source)] * len(rows),
        ["in"] * len(rows),
        [3] * len(rows),
        *(random.random(len(rows), np.float32) for _ in COLUMNS),
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, METRICS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=METRICS)


def rejected_rows(rows: Sequence[int], source: Path) -> pa.Table:
    """Rows of rejected."""
    one = {"source": str(source), "offset": 0, "reason": "bad", "raw": b"rubbish", "raw_bytes": 7}
    return pa.Table.from_pylist([{"row": row} | one for row in rows], schema=REJECTED.schema)


def write_part(
    path: Path, table: pa.Table, footer: Mapping[str, Any] | bytes, row_group: int = 2
) -> None:
    """A part with `footer` in its footer."""
    said = footer if isinstance(footer, bytes) else orjson.dumps(dict(footer))
    with pa.OSFile(str(path), "wb") as file:
        writer = pq.ParquetWriter(file, table.schema, compression="zstd", write_page_checksum=True)
        writer.write_table(table, row_group_size=row_group)
        close_with_footer(writer, file, said)
