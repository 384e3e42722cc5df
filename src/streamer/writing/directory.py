"""A run directory as a whole: locked, described by its manifest, and logged."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from streamer._version import __version__
from streamer.errors import RunFault, UsageError
from streamer.manifest import FORMAT, MANIFEST, Manifest
from streamer.writing.event_log import EventLog, now
from streamer.writing.names import WHOLE, Names
from streamer.writing.storage.base import Lock, Locked, NoLocks, Storage, write_fault
from streamer.writing.storage.new_folder import LOCK, check_free, make_folder

PACKAGES = ("torch", "transformers", "transformer-lens", "sae-lens", "numpy", "pyarrow")


class RunDirectory:
    """RUN/, where a run writes its manifest, log and tables, locked against other processes.

    With the `names` of a shard, it is the shard's own folder in RUN: several processes may then
    write to RUN, each with its own names.

    :raises UsageError: another process is writing to it, or it cannot be written.
    """

    def __init__(
        self,
        storage: Storage,
        log: EventLog,
        read_earlier: Callable[[], Manifest | None] = lambda: None,
        names: Names = WHOLE,
    ) -> None:
        """Lock the directory, which is there, and open `log` in it. Nothing else is written yet.

        `read_earlier` returns the manifest of its run, if there is one. It is called once no other
        process can write to the directory.
        """
        self._storage = storage
        self._names = names
        self._event_log = log
        self.path = storage.local_folder(names.folder)
        """Where the log is, and what else is written beside the tables."""
        self._is_kept = False
        self._lock = self._locked()
        try:
            self.earlier = earlier = read_earlier()
            """The manifest of a run that goes on, as it was found; None of a new one."""
        except BaseException:
            self.leave()
            raise
        sessions = (*earlier.earlier_sessions, earlier.session()) if earlier is not None else ()
        self.manifest = Manifest(
            format=FORMAT,
            status="running",
            started=now(),
            finished=None,
            earlier_sessions=sessions,
            notes=earlier.notes if earlier is not None else (),  # they hold for rows that are kept
            working_directory=str(Path.cwd()),
            versions={
                "streamer": __version__,
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in PACKAGES},
            },
        )
        """Of this session, as far as it has come."""

    def _locked(self) -> Lock:
        """The lock, with the log open.

        :raises UsageError: another process has it, or it cannot be written to the directory.
        """
        try:
            lock = self._storage.lock(self._names.own(LOCK))
            try:
                self._event_log.open(self.path / "log.jsonl")
            except OSError:
                lock.release()
                raise
        except Locked:
            raise UsageError(
                f"another process is writing to {self.path}. Wait for it, or choose another "
                f"directory with --out."
            ) from None
        except NoLocks as error:
            raise UsageError(
                f"cannot lock the run directory {self.path}: its file system has no locks "
                f"({error.strerror}), and two processes in one run would ruin it. Choose a "
                f"directory on another with --out."
            ) from None
        except OSError as error:
            raise UsageError(
                f"cannot write to the run directory {self.path}: {error}. Fix that, or choose "
                f"another with --out."
            ) from None
        return lock

    @classmethod
    def make(cls, storage: Storage, log: EventLog, names: Names = WHOLE) -> Self:
        """The directory of a new run, locked, with `log` open in it.

        :raises UsageError: there is something in it already, or it cannot be made.
        """
        path = storage.local_folder(names.folder)
        make_folder(path)

        def nothing_yet() -> None:
            check_free(path)  # nor from another process that was quicker

        return cls(storage, log, nothing_yet, names)

    def begin(self, **entries: Any) -> None:
        """Write manifest.json for the first time, with `entries`. Waits for nothing: a run that
        starts on a full disk ends at once.

        :raises RunFault: it could not be written.
        """
        self._write_manifest(entries, self._storage.without_waiting())

    def _write_manifest(self, entries: Mapping[str, Any], storage: Storage) -> None:
        """Replace manifest.json as a whole, with `entries` in it."""
        manifest = self.manifest.updated(**entries)  # a thread left behind may still keep a note
        self.manifest = manifest
        try:
            storage.replace(self._names.own(MANIFEST), manifest.content())
        except OSError as error:
            raise write_fault(storage.location, error) from error

    def keep_notes(self, notes: Iterable[str], *, at_once: bool = False) -> None:
        """Have `notes` in the manifest when it is written next, each once; or `at_once`, if the
        disk takes it, so that a kill does not lose them."""
        all_notes = tuple(dict.fromkeys((*self.manifest.notes, *notes)))
        self.manifest = self.manifest.updated(notes=all_notes)
        if at_once:
            with contextlib.suppress(RunFault):  # it is written again at the end
                self._write_manifest({}, self._storage.without_waiting())

    def close(self, status: str, **entries: Any) -> None:
        """Log and write into the manifest how the run ended: finished, stopped or failed. Waits
        for room.

        :raises RunFault: the manifest could not be written.
        """
        self._event_log.write(status, entries)
        self._write_manifest({"status": status, "finished": now(), **entries}, self._storage)

    def keep(self) -> None:
        """Keep the lock when `leave` is called: a thread that was left behind may still write. The
        lock is released with the last reference to this object, or with the process."""
        self._is_kept = True

    def leave(self) -> None:
        """Close the log and release the lock. May be called more than once."""
        if not self._is_kept:
            self._event_log.close()
            self._lock.release()
