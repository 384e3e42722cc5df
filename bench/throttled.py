"""A slow disk: an fsspec file system whose reads take as long as their bytes.

`throttled://RATE/PATH` is the local file /PATH, read at RATE bytes a second.
"""

import io
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

PIECE_SECONDS = 0.02
"""A read returns at most what comes in this time, so that the file comes gradually."""


class Throttled(AbstractFileSystem):
    """Reads local files slowly."""

    protocol = "throttled"

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Part of fsspec's interface."""
        _, local = _parted(path)
        return {"name": path, "size": local.stat().st_size, "type": "file"}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> "SlowFile":
        assert mode == "rb", "a slow disk is only read"
        return SlowFile(*_parted(path))


class SlowFile(io.FileIO):
    """An open file that gives at most `rate` bytes a second."""

    def __init__(self, rate: float, path: Path) -> None:
        super().__init__(path)
        self._rate = rate

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes, after the time that they take."""
        most = max(1, round(self._rate * PIECE_SECONDS))
        piece = super().read(most if size is None or size < 0 else min(size, most))
        time.sleep(len(piece) / self._rate)
        return piece


def throttled(path: Path, rate: float) -> str:
    """The URL of `path`, read at `rate` bytes a second."""
    fsspec.register_implementation("throttled", Throttled, clobber=True)
    return f"throttled://{rate:.0f}{path.resolve()}"


def _parted(path: str) -> tuple[float, Path]:
    """The rate and the local file of `RATE/PATH`."""
    rate, _, local = path.removeprefix("throttled://").partition("/")
    return float(rate), Path("/") / local
