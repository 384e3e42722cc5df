"""Memory that is freed serves the next operation; the peak of a trial is its own nevertheless."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's heap can be kept"
)
PROGRAM = """
import resource, sys, threading, torch
from streamer.heap import keep_heap
from streamer.monitoring.memory import PeakMemory

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def layers(count):
    x = torch.ones(4096, 3072)
    for _ in range(count):
        x = torch.relu(2 * x) + x
    return x

def pages_of_layers(found):
    layers(8)
    before = pages()
    layers(8)
    found.append((pages() - before) * resource.getpagesize())

keep_heap(torch.device(sys.argv[1]))
found = []
thread = threading.Thread(target=pages_of_layers, args=(found,))
thread.start()
thread.join()
"""
LAYER = 4096 * 3072 * 4
"""Bytes of one."""


def answer(device: str, question: str) -> int:
    """Of a process of its own: a heap stays as it is set."""
    command = [sys.executable, "-c", PROGRAM + question, device]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return int(done.stdout)


def test_on_a_cpu_freed_pages_are_used_again():
    assert answer("cpu", "print(found[0])") < 8 * LAYER


def test_beside_an_accelerator_the_heap_is_as_it_was():
    assert answer("cuda", "print(found[0])") > 20 * LAYER


def test_what_was_needed_before_does_not_count():
    question = """
peaks = []
for count in (4096, 64):
    with PeakMemory(torch.device("cpu")) as peak:
        held = torch.ones(count, 3072)
        held = None
    peaks.append(peak.bytes)
print(peaks[0] - peaks[1])
"""
    assert answer("cpu", question) > LAYER / 2
