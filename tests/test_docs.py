"""What the documents say is there, is there."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["architecture.md", "decisions.md", "reliability.md"])
def test_every_test_that_is_named_exists(name):
    text = (PROJECT / "docs" / name).read_text("utf-8")
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", text)
    assert named
    for file, test in named:
        (path,) = [*PROJECT.glob(f"tests/**/{file}"), *PROJECT.glob(f"soak/{file}")]
        assert not test or f"def {test}(" in path.read_text("utf-8"), f"{file}::{test}"
