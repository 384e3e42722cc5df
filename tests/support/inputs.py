"""Inputs in which some records are to blame, and what a run rejected of them."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from streamer.results.run import open_run

LINE = '{{"prompt": "The {} number {} is", "fact": "blue", "hallucination": "green"}}\n'


def inputs(folder: Path, count: int, guilty: tuple[int, ...] = ()) -> dict[str, Any]:
    """Settings of a run over `count` records, of which the `guilty` rows name a river."""
    path = folder / "in.jsonl"
    names = ["river" if row in guilty else "sky" for row in range(count)]
    path.write_text("".join(LINE.format(name, row) for row, name in enumerate(names)))
    return {"paths": [str(path)], "out": folder / "RUN"}


def rejected(path: Path) -> list[dict[str, Any]]:
    """Of a run that may have broken off: what its finished parts say."""
    parts = open_run(path).parts("rejected")
    return [row for part in parts for row in pq.read_table(part).to_pylist()]
