"""Memory as it is measured, and as it is limited."""

import subprocess
import sys

import pytest

from support.memory import group_of

PEAKS = """
import torch
from streamer.device.memory import PeakMemory

peaks = []
for count in (4096, 64):
    with PeakMemory(torch.device("cpu")) as peak:
        torch.ones(count, 3072)
    peaks.append(peak.bytes)
print(peaks[0] - peaks[1])
"""
FORKED = """
import os
import torch
from streamer.device.memory import memory

cpu = torch.device("cpu")
if child := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
before = memory(cpu).process
held = torch.ones(50 * 2**20)  # 200 MB
os._exit(memory(cpu).process < before + 150 * 2**20)
"""
BATCHES = """
import torch
from streamer.device.memory import BatchMemory, memory

MB, cpu = 2**20, torch.device("cpu")
torch.ones(100 * MB)  # 400 MB for a moment, as loading does
batches = BatchMemory(cpu)
kept = []
for size in (50, 100, 20):
    kept.append(torch.ones(8 * MB))  # a window of records, say
    torch.ones(size * MB // 4)
    found = batches.look()
    print(round(found.needed / MB), found.is_new_peak)
print(memory(cpu).process_peak > 400 * MB)
"""
FREE = """
import torch
from streamer.device.memory import free_memory

print(free_memory(torch.device("cpu")))
"""


def printed(script: str, *before: str) -> list[str]:
    command = [*before, sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.split()


def test_what_was_needed_before_does_not_count():
    (difference,) = printed(PEAKS)
    assert int(difference) > 4096 * 3072 * 4 / 2


@pytest.mark.skipif(sys.platform != "linux", reason="clears the peak as Linux does")
def test_what_a_batch_needs_is_neither_loading_nor_what_grew_beside_it():
    (*batches, peak_of_all) = printed(BATCHES)
    needed, is_new = map(int, batches[::2]), batches[1::2]
    first, second, third = needed
    assert 50 <= first <= 50 + 32 + 20
    assert 100 <= second <= 100 + 32 + 20
    assert 20 <= third <= second + 10, "at most what the peak leaves open"
    assert is_new == ["True", "True", "False"]
    assert peak_of_all == "True", "what is shown is still the peak of all"


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
def test_a_limit_of_the_address_space_counts():
    (free,) = printed(FREE, "bash", "-c", 'ulimit -v 8388608; exec "$@"', "x")
    assert 0 < int(free) < 8 * 2**30


def test_the_limit_of_a_control_group_counts():
    with group_of(2**30) as enter:
        (free,) = printed(FREE, *enter)
    assert 0 < int(free) < 2**30


def test_a_process_that_was_forked_sees_its_own_memory():
    subprocess.run([sys.executable, "-c", FORKED], check=True)
