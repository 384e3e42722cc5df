"""Every benchmark runs, on a model too small to measure anything, and reports numbers."""

import contextlib
import importlib
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import FULL, SHORT, SUITE
from bench.model import SHAPES, Shape
from streamer import embedded

TINY = Shape("tiny", 48, 5, 4, 2, 12, 96, (0, 1, 3), 256, "float32")
GIVEN = {
    "--records": [str(embedded.RECORDS)],
    "--tokenizer": [str(embedded.MODEL)],
    "--shape": ["cpu"],
    "--device": ["cpu"],
    "--bf16": [],
}
"""What `python -m bench` passes on."""
SMALL: dict[str, list[str]] = {
    "methods": ["--sample", "4", "--streamer-records", "8", "--repeats", "1"],
    "efficiency": ["--repeats", "1", "--sample", "8"],
    "batch_sizes": ["--repeats", "1", "--sample", "8", "--sizes", "1,4"],
    "overlap": ["--repeats", "1", "--count", "8"],
    "sharing": ["--repeats", "1", "--sample", "8"],
    "row_length": ["--repeats", "1", "--sample", "8", "--lengths", "32,128"],
    "forward": ["--repeats", "1", "--sample", "8", "--long-rows", "1"],
    "precision": ["--repeats", "1", "--sample", "8", "--seconds", "0"],
    "geometry": ["--d-models", "128", "--passages", "6", "--repeats", "1"],
    "analysis": ["--records", "2", "--positions", "128", "--repeats", "1"],
    "noise": ["--sizes", "4", "--repeats", "2"],
    "draws": ["--repeats", "1", "--sample", "8"],
    "teams": ["--repeats", "1", "--sample", "8"],
    "host": ["--repeats", "1", "--sample", "8"],
    "scale": ["--sizes", "8,16", "--repeats", "1"],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the benchmark model is made, once."""
    return tmp_path_factory.mktemp("cache")


def test_all_are_tried():
    assert list(SMALL) == list(SUITE)


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs(name, tmp_path, cache, monkeypatch, capsys):
    module = importlib.import_module(f"bench.{name}")

    def measured_here(of: str, arguments: list[str], only: str) -> dict[str, Any]:
        assert of == module.__name__
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            module.main([*arguments, "--only", only])
        return {**json.loads(printed.getvalue().splitlines()[-1]), "peak_memory_mb": 1.0}

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setitem(SHAPES, "cpu", TINY)
    monkeypatch.setattr("bench.analysis.GPU_SHAPE", TINY)
    monkeypatch.setattr("bench.report.RESULTS", tmp_path)
    if hasattr(module, "measure_alone"):  # each in a process of its own, of the full size
        monkeypatch.setattr(module, "measure_alone", measured_here)
    passed_on = [word for option in SUITE[name] for word in (option, *GIVEN[option])]
    module.main([*passed_on, *FULL.get(name, ()), *SHORT.get(name, ()), *SMALL[name]])
    capsys.readouterr()
    rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    assert rows
    numbers = [value for row in rows for value in row.values() if isinstance(value, float)]
    assert numbers
    assert all(math.isfinite(number) for number in numbers)
