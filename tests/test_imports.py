"""The rule of imports: stages do not know each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamer

PACKAGE = Path(streamer.__file__).parent
STAGES = {"loading", "batching", "model", "analysis", "writing"}
SHARED = {
    "config",
    "packing",
    "embedded",
    "errors",
    "heap",
    "patience",
    "queues",
    "records",
    "threads",
    "_version",
}


def imported(file: Path) -> Iterator[str]:
    """The rooms of the package that `file` imports from."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("streamer"):
            parts = (node.module or "").split(".")
            yield from parts[1:2] or [alias.name for alias in node.names]


@pytest.mark.parametrize("stage", sorted(STAGES | {"monitoring"}))
def test_a_stage_knows_itself_and_what_all_share(stage):
    for file in (PACKAGE / stage).glob("*.py"):
        assert set(imported(file)) <= SHARED | {stage}, file.name
