"""Objects that the garbage collector leaves alone while a run goes on."""

import gc

import pytest

from streamer.errors import RunFault
from streamer.running.load import gc_frozen
from support.runs import run_with


def test_objects_are_frozen_while_a_run_goes_on(embedded_worker, tmp_path, monkeypatch):
    worker, kept = embedded_worker("contrast"), []
    launch = worker.launch

    def look(batch):
        kept.append(gc.get_freeze_count())
        return launch(batch)

    monkeypatch.setattr(worker, "launch", look)
    run_with(worker, out=tmp_path / "RUN", limit=8)
    assert min(kept) > 10_000
    assert gc.get_freeze_count() == 0


def test_objects_are_thawed_when_a_run_breaks_off(embedded_worker, tmp_path, monkeypatch):
    worker = embedded_worker("contrast")

    def break_off(_):
        raise RunFault("broken")

    monkeypatch.setattr(worker, "launch", break_off)
    with pytest.raises(RunFault):
        run_with(worker, out=tmp_path / "RUN", limit=8)
    assert gc.get_freeze_count() == 0


def test_what_the_process_has_frozen_itself_stays_frozen():
    gc.freeze()
    try:
        with gc_frozen():
            assert gc.get_freeze_count()
        assert gc.get_freeze_count()  # which number depends on what else dies meanwhile
    finally:
        gc.unfreeze()
