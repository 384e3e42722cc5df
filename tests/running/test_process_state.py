"""A run leaves the process as it found it: a notebook or a test goes on in it, or the next run."""

import gc
import logging
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging as transformers_logging

import streamer
from streamer import RunConfig, RunFault
from streamer.concurrency.threads import a_thread_hangs
from streamer.monitoring.library_warnings import LIBRARIES

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def state() -> dict[str, Any]:
    """All of the process that a run may be tempted to set."""
    loggers = [logging.getLogger(name) for name in ("", "py.warnings", *LIBRARIES)]
    return {
        "signals": [signal.getsignal(number) for number in SIGNALS],
        "directory": Path.cwd(),
        "environment": dict(os.environ),
        "warnings": warnings.showwarning,
        "filters": list(warnings.filters),
        "logging": [(one.level, one.propagate, list(one.handlers)) for one in loggers],
        "transformers": (
            transformers_logging.get_verbosity(),
            transformers_logging.is_progress_bar_enabled(),
        ),
        "streams": (sys.stdout, sys.stderr),
        "stderr": os.fstat(2),
        "frozen": gc.get_freeze_count() > 0,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "threads of torch": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "default type": torch.get_default_dtype(),
        "seed": torch.initial_seed(),
        "excepthooks": (sys.excepthook, threading.excepthook),
    }


@pytest.fixture
def odd(monkeypatch):
    """A program that has arranged all of this itself, in other ways than we would."""
    logging.captureWarnings(True)
    before = [signal.signal(number, lambda *_: None) for number in SIGNALS]
    torch.set_float32_matmul_precision("medium")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    yield
    torch.set_float32_matmul_precision("highest")
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize("deterministic", [True, False])
def test_after_a_run_the_process_is_as_before(tmp_path, deterministic):
    before = state()
    config = RunConfig(out=tmp_path / "RUN", limit=3, deterministic=deterministic, progress="rich")
    streamer.run(config)
    assert state() == before
    assert not a_thread_hangs()


@pytest.mark.usefixtures("odd")
def test_after_a_run_that_broke_off_the_process_is_as_before(tmp_path, monkeypatch):
    before = state()

    def broken(*_: Any) -> Any:
        raise ValueError("a stage broke")

    monkeypatch.setattr("streamer.writing.writer.Writer.add", broken)
    with pytest.raises(RunFault, match="a stage broke"):
        streamer.run(RunConfig(out=tmp_path / "RUN", limit=3, progress="none"))
    assert state() == before
    assert not a_thread_hangs()
