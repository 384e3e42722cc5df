"""The folder of a new run: checks that it is free, and creates it."""

import contextlib
import datetime
import itertools
import os
from pathlib import Path

from streamer.errors import UsageError
from streamer.manifest import MANIFEST
from streamer.writing.storage.local import fsync

LOCK = ".lock"
BEGUN = {LOCK, "log.jsonl", "stderr.log", "manifest.json.tmp", "status.json", "status.json.tmp"}
"""Files left by a run that was killed before it had a manifest."""


def make_folder(path: Path) -> None:
    """Make the folder `path` and those above it, so that they survive a power cut.

    :raises UsageError: there is something in it already, or it cannot be made.
    """
    check_free(path)
    try:
        new = [one for one in (path, *path.parents) if not one.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for one in new:
            with contextlib.suppress(PermissionError):  # it may be writable, but not readable
                fsync(one.parent)
    except OSError as error:
        raise UsageError(
            f"cannot make the run directory {path}: {error}. Choose another with --out."
        ) from None


def is_run(path: Path) -> bool:
    """Whether there is a run at `path`, finished or not."""
    try:
        return (path / MANIFEST).is_file()
    except OSError:  # `check_free` raises it
        return False


def unused(path: Path) -> Path:
    """`path`, or the next of `path`-2, `path`-3, … where there is nothing.

    :raises UsageError: one of them cannot be looked at.
    """
    path = path if path.name else path.resolve()
    tries = itertools.chain(
        [path], (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    )
    try:
        return next(one for one in tries if not one.exists())
    except OSError as error:
        raise _unusable(path, error) from None


def check_free(path: Path) -> None:
    """Return if a new run can be written to `path`.

    :raises UsageError: something is there, or nothing can be made there.
    """
    try:
        there = next(one for one in (path, *path.absolute().parents) if one.exists())
        can_write = os.access(there, os.W_OK | os.X_OK)
        taken = path.is_dir() and any(entry.name not in BEGUN for entry in path.iterdir())
        is_file = not there.is_dir()
    except OSError as error:
        raise _unusable(path, error) from None
    if is_file:
        raise UsageError(f"{there} is a file, not a directory. Choose another with --out.")
    if taken:
        raise UsageError(
            f"{path} holds {'a run' if is_run(path) else 'something else'} already: streamer never "
            f"writes over it. Choose another directory with --out, or remove it."
        )
    if not can_write:
        raise UsageError(
            f"cannot write to {path}: {there} is read-only, or not yours to write to. Choose "
            f"another with --out."
        )


def _unusable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot use {path} as run directory: {error}. Choose another with --out.")


def default_path() -> Path:
    """Where a run is written to without --out: runs/ and the time."""
    return Path("runs") / datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
