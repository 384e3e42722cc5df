"""Streams and events of a CUDA device that is not there."""

import threading
from typing import Any

import pytest
import torch

from streamer.device import transfers
from support.pretended import Pretended


class Steps:
    """Which step of a batch the thread that owns the device is in."""

    def __init__(self, mode: Pretended) -> None:
        self.mode = mode
        self.owner = threading.get_ident()
        self.now = 0
        self.waited = 0
        """How often that thread waited for an event."""


class Event:
    """Something on a stream that can be waited for. Copies to the host are there only then."""

    steps: Steps

    def __init__(self, **how: Any) -> None:
        self._lock = threading.Lock()
        assert how == {"blocking": True}, "an event that is waited for by spinning takes a core"

    def record(self, *_: Any) -> None:
        """Of all that was begun until now."""
        steps = self.steps
        self._copies, steps.mode.copies = steps.mode.copies, []
        self._step = steps.now

    def synchronize(self) -> None:
        """Wait.

        :raises AssertionError: the thread that owns the device waits for what it has only just
            asked for, or what is copied was written to meanwhile.
        """
        if threading.get_ident() == self.steps.owner:
            self.steps.waited += 1
            assert self._step < self.steps.now or not self.steps.mode.judges, (
                "the host waits for what it began in the same step: the device has nothing to do"
            )
        with self._lock, torch.inference_mode():
            for to, source, then in self._copies:
                assert torch.equal(_bits(source), _bits(then)), "written to while it was copied"
                to.copy_(then)
            self._copies = []


class Stream:
    """A queue of work."""

    def __init__(self, *_: Any) -> None: ...

    def wait_stream(self, stream: "Stream") -> None:
        """What comes here begins when all on `stream` is done."""

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None: ...


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, mode: Pretended) -> Steps:
    """Let torch.cuda have what the program uses of it; the steps, to be counted on by the test."""
    steps = Steps(mode)
    monkeypatch.setattr(Event, "steps", steps, raising=False)
    here = {
        "Event": Event,
        "Stream": Stream,
        "stream": lambda stream: stream,
        "current_stream": lambda *_: Stream(),
        "current_device": lambda: 0,
        "_exchange_device": lambda to: to,
        "_maybe_exchange_device": lambda to: to,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "empty_cache": lambda: None,
        "_lazy_init": lambda: None,
    }
    for name, value in here.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(transfers, "_copy_stream", Stream)
    return steps
