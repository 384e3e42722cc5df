"""What a record costs as the input grows: rate and peak memory must not depend on its length.

    python -m bench.scale [--sizes 1000,50000]

Runs the command itself, a process for each size, on the embedded records repeated in order.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.report import report
from streamer import embedded, open_run


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1000,50000")
    sizes = [int(size) for size in parser.parse_args(arguments).sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        report("scale", [_measure(Path(folder), size) for size in sizes], model="embedded")


def _measure(folder: Path, size: int) -> dict[str, Any]:
    records = [
        record
        for file in sorted(embedded.RECORDS.glob("*.json"))
        for record in json.loads(file.read_text("utf-8"))
    ]
    path, out = folder / f"{size}.jsonl", folder / f"RUN-{size}"
    with path.open("w") as file:
        for record in itertools.islice(itertools.cycle(records), size):
            file.write(json.dumps(record) + "\n")
    command = [sys.executable, "-m", "streamer", "run", str(path), "--out", str(out)]
    begin = time.monotonic()
    with subprocess.Popen([*command, "--progress", "none"], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - begin
    if process.returncode:
        raise SystemExit(f"streamer ended with exit code {process.returncode} on {size} records")
    run = open_run(out)
    counts = run.manifest["counts"]
    unit = 1 if sys.platform == "darwin" else 1024
    streaming = run.manifest["seconds"]
    return {
        "records": size,
        "measured": counts["rows"],
        "seconds_in_all": seconds,
        "records_per_second": counts["records"] / streaming,
        "peak_memory_mb": usage.ru_maxrss * unit / 1e6,
    }


if __name__ == "__main__":
    main()
