"""Limits of memory for processes under test."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def group_of(size: int) -> Iterator[list[str]]:
    """A control group of so many bytes: what to write before a command that is to run in it. Skips
    the test where none can be made."""
    memory, name = Path("/sys/fs/cgroup/memory"), f"streamer-test-{os.getpid()}"
    is_v1 = (memory / "memory.limit_in_bytes").exists()
    group = (memory if is_v1 else Path("/sys/fs/cgroup")) / name
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(size))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield ["bash", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "x"]
    finally:
        group.rmdir()
