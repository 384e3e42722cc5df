"""Whole runs in this process, with the embedded worker, which is loaded once."""

import functools
from collections.abc import Sequence
from typing import Any

import anyio

import streamer
from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.results.run import Run
from streamer.results.summary import Summary
from streamer.running.prepare import prepare
from streamer.running.run import run as run_prepared
from streamer.tables import TABLES, Table


@functools.cache
def embedded(kind: Any, *carry: Any) -> Worker:
    """The embedded model and SAEs as a worker for records of a kind, and fields that they carry."""
    return load_worker(RunConfig(carry=dict(carry)), kind)


def run_with(
    worker: Worker | None, tables: Sequence[Table] = TABLES, **settings: Any
) -> tuple[Run, Summary]:
    """A whole run in this process; with the embedded worker of the right kind if none is given.
    One that is given makes rows of `tables`."""
    prepared = prepare(RunConfig(progress="none", **settings), tables=tables)
    worker = worker or embedded(prepared.loader.fields.kind, *settings.get("carry", {}).items())
    summary = anyio.run(run_prepared, prepared, worker)
    return streamer.open_run(prepared.out), summary
