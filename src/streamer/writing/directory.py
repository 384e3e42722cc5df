"""A run directory as a whole: made, described by its manifest, and logged."""

import contextlib
import datetime
import errno
import importlib.metadata
import itertools
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import filelock
import orjson

from streamer._version import __version__
from streamer.errors import UsageError
from streamer.writing.event_log import EventLog, now
from streamer.writing.parts import fsync
from streamer.writing.storage.local import IMPATIENT, Disk, write_fault

LOCK = ".lock"
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
"""What file systems without locks say, or whose lock server is away."""
BEGUN = {LOCK, "log.jsonl", "stderr.log", "manifest.json.tmp", "status.json", "status.json.tmp"}
"""What is left of a run that was killed before it had a manifest."""
PACKAGES = ("torch", "transformers", "transformer-lens", "sae-lens", "numpy", "pyarrow")


class RunDirectory:
    """RUN/, where a run writes its manifest, log and tables, locked against other processes.

    The kernel holds the lock, so a process that was killed leaves none behind.

    :raises UsageError: another process is at work on it, or it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        log: EventLog,
        disk: Disk = IMPATIENT,
        read_earlier: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Lock the directory `path`, which is there, and open `log` in it. Nothing else is written
        yet.

        `read_earlier` returns the manifest of its run, if there is one. It is called once no other
        process can write to the directory.
        """
        self.path = path
        self._event_log = log
        self._disk = disk
        self._is_kept = False
        self._lock = filelock.FileLock(
            path / LOCK, blocking=False, thread_local=False, fallback_to_soft=False
        )
        try:
            self._lock.acquire()
            log.open(path / "log.jsonl")
        except filelock.Timeout:
            raise UsageError(
                f"another process is writing to {path}. Wait for it, or choose another directory "
                f"with --out."
            ) from None
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise UsageError(
                    f"cannot lock the run directory {path}: its file system has no locks "
                    f"({error.strerror}), and two processes in one run would ruin it. Choose a "
                    f"directory on another with --out."
                ) from None
            raise UsageError(
                f"cannot write to the run directory {path}: {error}. Mend that, or choose another "
                f"with --out."
            ) from None
        try:
            self.earlier = earlier = read_earlier()
            """The manifest of a run that goes on, as it was found; empty for a new one."""
        except BaseException:
            self.leave()
            raise
        sessions = [*earlier["earlier_sessions"], _session(earlier)] if earlier else []
        self.manifest: dict[str, Any] = {
            "status": "running",
            "started": now(),
            "finished": None,
            "earlier_sessions": sessions,
            "working_directory": str(Path.cwd()),
            "versions": {
                "streamer": __version__,
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in PACKAGES},
            },
        }

    @classmethod
    def make(cls, path: Path, log: EventLog, disk: Disk = IMPATIENT) -> Self:
        """The directory of a new run, locked, with `log` open in it.

        :raises UsageError: there is something at `path` already, or it cannot be made.
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

        def nothing_yet() -> dict[str, Any]:
            check_free(path)  # nor from another process that was quicker
            return {}

        return cls(path, log, disk, nothing_yet)

    def begin(self, **entries: Any) -> None:
        """Write manifest.json for the first time, with `entries`. Waits for nothing: a run that
        starts on a full disk ends at once.

        :raises RunFault: it could not be written.
        """
        self._write_manifest(entries, IMPATIENT)

    def _write_manifest(self, entries: Mapping[str, Any], disk: Disk) -> None:
        """Replace manifest.json as a whole, with `entries` in it."""
        self.manifest.update(entries)
        temporary = self.path / "manifest.json.tmp"
        content = orjson.dumps(self.manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)

        def write() -> None:
            with temporary.open("wb") as file:
                file.write(content + b"\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / "manifest.json")
            fsync(self.path)

        try:
            disk.patiently(write, self.path / "manifest.json")
        except OSError as error:
            raise write_fault(self.path, error) from error

    def close(self, status: str, **entries: Any) -> None:
        """Log and write into the manifest how the run ended: finished, stopped or failed. Waits for
        room on the disk.

        :raises RunFault: the manifest could not be written.
        """
        self._event_log.write(status, entries)
        self._write_manifest({"status": status, "finished": now(), **entries}, self._disk)

    def keep(self) -> None:
        """Keep the lock when `leave` is called: a thread that was left behind may still write. The
        lock is released with the last reference to this object, or with the process."""
        self._is_kept = True

    def leave(self) -> None:
        """Close the log and release the lock. May be called more than once."""
        if not self._is_kept:
            self._event_log.close()
            self._lock.release()


def is_run(path: Path) -> bool:
    """Whether there is a run at `path`, finished or not."""
    try:
        return (path / "manifest.json").is_file()
    except OSError:  # `check_free` says it
        return False


def unused(path: Path) -> Path:
    """`path`, or the next of `path`-2, `path`-3, … at which there is nothing.

    :raises UsageError: nobody can tell.
    """
    path = path if path.name else path.resolve()
    tries = itertools.chain(
        [path], (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    )
    try:
        return next(one for one in tries if not one.exists())
    except OSError as error:
        raise _unusable(path, error) from None


def _session(manifest: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a session when the next one begins."""
    kept = {key: manifest.get(key) for key in ("started", "finished", "status", "seconds", "cause")}
    if kept["status"] == "running":  # it did not get to say how it ended
        kept["status"] = "killed"
    return kept | {"streamer": manifest["versions"]["streamer"]}


def check_free(path: Path) -> None:
    """Return if a run can be written to `path`.

    :raises UsageError: something is there, or nothing could be made there.
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
    """runs/ and the time: a new one for every run."""
    return Path("runs") / datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
