"""A worker for commands that load one."""

from collections.abc import Callable

import pytest

from streamer.computing.worker import Worker
from streamer.tables import RunTables


@pytest.fixture
def loaded(monkeypatch, embedded_worker: Callable[[str], Worker]) -> Worker:
    """The embedded worker, loaded once, in place of one for every command."""
    worker = embedded_worker("contrast")
    layout = worker.tables.layout

    def load(_config, _kind, tables):
        monkeypatch.setattr(worker, "tables", RunTables(tables, layout))
        return worker

    monkeypatch.setattr("streamer.commands.sample.load_worker", load)
    return worker
