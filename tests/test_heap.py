"""Memory and objects that are held while a run goes on, and by nothing else."""

import gc
import platform
import subprocess
import sys

import pytest

from conftest import run_with
from streamer.errors import RunFault
from streamer.heap import objects_kept

LAYER = 4096 * 3072 * 4
"""Bytes of one."""
LAYERS = """
import ctypes, resource, sys, threading
from streamer.heap import keep_heap

PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # so that all pages have the same size
keep_heap(sys.argv[1])
import torch
from streamer.monitoring.memory import PeakMemory

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def layers(count):
    x = torch.ones(4096, 3072)
    for _ in range(count):
        x = torch.relu(2 * x) + x

def measure():
    layers(8)
    before = pages()
    layers(8)
    mapped.append((pages() - before) * resource.getpagesize())

mapped = []
for _ in range(3):
    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
"""
COMMAND = """
import ctypes, sys
from streamer.cli import main
try:
    main(["run", "--limit", "64", "--out", sys.argv[1], "--progress", "none", "--device", "cpu"])
finally:
    ctypes.CDLL(None).malloc_stats()
"""
glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's heap can be kept"
)


def outcome(program: str, argument: str) -> subprocess.CompletedProcess[str]:
    """Of a process of its own: a heap stays as it is set."""
    command = [sys.executable, "-c", program, argument]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


@glibc
def test_on_a_cpu_freed_pages_are_used_again():
    assert int(outcome(LAYERS + "print(max(mapped))", "cpu").stdout) < 8 * LAYER


@glibc
def test_beside_an_accelerator_the_heap_is_as_it_was():
    assert int(outcome(LAYERS + "print(min(mapped))", "cuda").stdout) > 20 * LAYER


@glibc
def test_what_was_needed_before_does_not_count():
    question = """
peaks = []
for count in (4096, 64):
    with PeakMemory(torch.device("cpu")) as peak:
        torch.ones(count, 3072)
    peaks.append(peak.bytes)
print(peaks[0] - peaks[1])
"""
    assert int(outcome(LAYERS + question, "cpu").stdout) > LAYER / 2


@glibc
def test_all_threads_of_the_command_share_one_heap(tmp_path):
    said = outcome(COMMAND, str(tmp_path / "RUN")).stderr
    assert [line for line in said.splitlines() if line.startswith("Arena")] == ["Arena 0:"]


def test_objects_are_kept_while_a_run_goes_on(embedded_worker, tmp_path, monkeypatch):
    worker, kept = embedded_worker("contrast"), []
    feed = worker.feed
    monkeypatch.setattr(worker, "feed", lambda b: (kept.append(gc.get_freeze_count()), feed(b))[1])
    run_with(worker, out=tmp_path / "RUN", limit=8)
    assert min(kept) > 10_000
    assert gc.get_freeze_count() == 0


def test_objects_are_left_again_when_a_run_breaks_off(embedded_worker, tmp_path, monkeypatch):
    worker = embedded_worker("contrast")

    def break_off(_):
        raise RunFault("broken")

    monkeypatch.setattr(worker, "feed", break_off)
    with pytest.raises(RunFault):
        run_with(worker, out=tmp_path / "RUN", limit=8)
    assert gc.get_freeze_count() == 0


def test_what_the_process_keeps_itself_stays_kept():
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        with objects_kept():
            pass
        assert gc.get_freeze_count() == before
    finally:
        gc.unfreeze()
