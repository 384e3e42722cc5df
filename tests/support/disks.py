"""A run whose records need more room than its disk has."""

import base64
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import streamer
from streamer import embedded
from support.processes import Popen

SMALL, LARGE, PART = 40, 40, 20
"""Records: the parts of the first ones fit below `LIMIT`, those of the others do not."""
LIMIT = 400_000
SETTINGS = [
    *("--deterministic", "--carry", "note=string"),
    *("--window", str(PART), "--part-rows", str(PART)),
]


def records() -> list[bytes]:
    """Embedded records, a line each; the later ones carry much that cannot be compressed."""
    entries = [
        entry
        for name in ("entity", "logical")
        for entry in json.loads((embedded.RECORDS / f"{name}.json").read_bytes())
    ][: SMALL + LARGE]
    noise = random.Random(0)
    for place, entry in enumerate(entries):
        size = 0 if place < SMALL else 40_000
        entry["note"] = base64.b64encode(noise.randbytes(size)).decode()
    return [json.dumps(entry).encode() + b"\n" for entry in entries]


def start(folder: Path, *flags: str, out: str = "RUN", limit: int | None = None, **settings):
    """`streamer run` over `records`, its files limited to so many bytes; output goes to files."""
    paths = () if "-" in flags else ("in.jsonl",)
    (folder / "in.jsonl").write_bytes(b"".join(records()))
    with (folder / "out.txt").open("w") as output, (folder / "err.txt").open("w") as errors:
        process = Popen(
            [sys.executable, "-m", "streamer", "run", *paths, *flags, *SETTINGS, "--out", out],
            cwd=folder,
            stdout=output,
            stderr=errors,
            **settings,
        )
    if limit:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return process


def wait_until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def events(folder: Path, name: str) -> list[dict]:
    log = folder / "RUN" / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [entry for line in lines if (entry := json.loads(line))["event"] == name]


def said(folder: Path) -> str:
    return " ".join((folder / "out.txt").read_text().split())


def metrics(path: Path) -> pa.Table:
    return streamer.open_run(path).table("metrics")


def check_stopped(folder: Path, process: subprocess.Popen, code: int, message: str) -> None:
    """One line says why, and the small records' parts are there."""
    assert process.wait(60) == code
    (line,) = (folder / "err.txt").read_text().splitlines()
    assert message in line
    assert "resume the run: finished parts are kept" in line
    assert metrics(folder / "RUN")["row"].to_pylist() == list(range(SMALL))


@contextlib.contextmanager
def mounted(path: Path, *arguments: str) -> Iterator[Callable[[str], None]]:
    """Something mounted at `path`; gives a function that mounts it again with other options."""

    def mount(*rest: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["mount", *rest, str(path)], capture_output=True, text=True, check=False
        )

    if not Path("/proc/mounts").exists() or os.geteuid() != 0:
        pytest.skip("only root can mount")
    done = mount(*arguments)
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
    try:
        yield lambda options: (mount("-o", f"remount,{options}").check_returncode(), None)[1]
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
