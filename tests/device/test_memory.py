"""Memory as it is measured."""

import subprocess
import sys

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


def test_what_was_needed_before_does_not_count():
    command = [sys.executable, "-c", PEAKS]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(said.stdout) > 4096 * 3072 * 4 / 2
