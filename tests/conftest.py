"""What several test files share: the embedded worker, loaded once, and whole runs with it."""

import functools
import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import pytest
from rich.console import Console

import streamer
from streamer.config import RunConfig
from streamer.execution import run_loaded
from streamer.monitoring.summary import Summary
from streamer.monitoring.warnings import LibraryWarnings
from streamer.preparation import prepare
from streamer.runs import Run
from streamer.worker import Worker
from streamer.worker_loading import load_worker

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@functools.cache
def _embedded(kind: Any) -> Worker:
    return load_worker(RunConfig(), kind)


@pytest.fixture(scope="session")
def embedded_worker() -> Callable[[str], Worker]:
    """The embedded model and SAEs as a worker for records of a kind."""
    return _embedded


@pytest.fixture(scope="session", autouse=True)
def own_heap() -> Iterator[None]:
    """Commands that are called in this process leave its heap as it is."""
    with mock.patch("streamer.heap._LIBC", None):
        yield


def run_with(worker: Worker | None, **settings: Any) -> tuple[Run, Summary]:
    """A whole run in this process; with the embedded worker of the right kind if none is given."""
    prepared = prepare(RunConfig(progress="none", **settings))
    worker = worker or _embedded(prepared.loader.fields.kind)
    console = Console(file=io.StringIO())
    summary = anyio.run(run_loaded, prepared, worker, console, LibraryWarnings())
    return streamer.open_run(prepared.out), summary


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real records and tokenizers that lie beside the project, not in it."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED.parent.name}/{SHARED.name} beside the project: real data absent")
    return SHARED


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, soon full."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)
