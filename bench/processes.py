"""Commands in processes of their own, and their peak memory.

    python -m bench.processes COMMAND …

On Linux a process begins with the peak of the one that it was started from. So every command is
started from this file, run as a small process that imports nothing large.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def run_alone(command: Sequence[str]) -> tuple[str, float]:
    """What `command` prints, and its peak memory in MB.

    :raises SystemExit: it failed.
    """
    starter = [sys.executable, "-m", "bench.processes", *command]
    done = subprocess.run(starter, capture_output=True, text=True, check=False)
    if done.returncode:
        shown = " ".join(command)
        raise SystemExit(f"{shown} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    *printed, peak = done.stdout.splitlines()
    return "\n".join(printed), float(peak)


def measure_alone(module: str, arguments: Sequence[str], only: str) -> dict[str, Any]:
    """The line of JSON that a benchmark prints with `--only`, and `peak_memory_mb`."""
    printed, peak = run_alone([sys.executable, "-m", module, *arguments, "--only", only])
    return {**json.loads(printed.splitlines()[-1]), "peak_memory_mb": peak}


def main(command: Sequence[str]) -> int:
    """Run `command`, print its peak memory in MB, and return its exit code."""
    with subprocess.Popen(command) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    print(f"\n{usage.ru_maxrss * unit / 1e6}")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
