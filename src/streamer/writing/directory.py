"""A run directory as a whole: made, described by its manifest, and logged."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import orjson

from streamer._version import __version__
from streamer.errors import UsageError
from streamer.writing.patient import IMPATIENT, write_fault

PACKAGES = ("torch", "transformers", "transformer-lens", "sae-lens", "numpy", "pyarrow")


class RunDirectory:
    """RUN/: the place of all that a run leaves behind.

    :raises UsageError: there is something at `path` already, or it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._log = (path / "log.jsonl").open("ab", buffering=0)
        except OSError as error:
            raise UsageError(
                f"cannot make the run directory {path}: {error}. Choose another with --out."
            ) from None
        self.path = path
        self.disk = IMPATIENT
        """How to wait for room: a run that starts on a full disk is told so at once."""
        self.manifest: dict[str, Any] = {
            "status": "running",
            "started": _now(),
            "finished": None,
            "versions": {
                "streamer": __version__,
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in PACKAGES},
            },
        }

    def describe(self, **entries: Any) -> None:
        """Put `entries` into manifest.json, which is replaced as a whole.

        :raises RunFault: it could not be written.
        """
        self.manifest.update(entries)
        temporary = self.path / "manifest.json.tmp"
        content = orjson.dumps(self.manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)

        def write() -> None:
            with temporary.open("wb") as file:
                file.write(content + b"\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / "manifest.json")

        try:
            self.disk.patiently(write, self.path / "manifest.json")
        except OSError as error:
            raise write_fault(self.path, error) from error

    def log(self, event: str, entries: dict[str, Any] | None = None) -> None:
        """Append a line to log.jsonl: what happened, when."""
        line = {"time": _now(), "event": event, **(entries or {})}
        with contextlib.suppress(OSError):  # a log that cannot be written must not end a run
            self._log.write(orjson.dumps(line, default=str) + b"\n")

    def close(self, status: str, **entries: Any) -> None:
        """The last word on the run: finished, stopped or failed."""
        self.log(status, entries)
        self.describe(status=status, finished=_now(), **entries)
        self._log.close()


def check_free(path: Path) -> None:
    """Return if a run can be written to `path`.

    :raises UsageError: something is there.
    """
    try:
        taken = path.is_dir() and any(path.iterdir())
        is_run, is_file = (path / "manifest.json").exists(), path.exists() and not path.is_dir()
    except OSError as error:
        raise UsageError(f"cannot use {path} as run directory: {error}. Choose another.") from None
    if is_file:
        raise UsageError(f"{path} is a file, not a directory. Choose another with --out.")
    if taken:
        raise UsageError(
            f"{path} holds {'a run' if is_run else 'something else'} already: streamer never "
            f"writes over it. Choose another directory with --out, or remove it."
        )


def default_path() -> Path:
    """runs/ and the time: a new one for every run."""
    return Path("runs") / datetime.datetime.now().strftime("%Y%m%d-%H%M%S")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
