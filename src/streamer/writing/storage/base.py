"""The interface of the storage that a run is written to.

A storage holds files by name, as in `metrics/part-00000.parquet`, with `/` on every system. A file
appears under its name whole or not at all. Nothing here is particular to a file system: an object
store can offer the same, by an upload that is completed when the file is published.

    create      a new file that nobody sees yet; what is written into it may be lost by a crash
    finish      all of it survives a crash or a power cut; still nobody sees it
    publish     it has its name; a file that had the name before is replaced
    list        the names in a folder, those of unpublished files among them
    read        the bytes of a published file, from any position
    remove      a file is gone
    post        a file that is soon replaced has new content, or the old one
    lock        one process at a time
"""

import contextlib
import errno
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from streamer.errors import RunFault

UNPUBLISHED = ".tmp"
"""A file that is not published yet is listed, and can be removed, by its name and this suffix."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""EFBIG is RLIMIT_FSIZE, which can be raised from outside."""


class DiskFull(OSError):
    """There was no room for as long as the storage waits."""


class Locked(Exception):
    """Another process holds the lock."""


class NoLocks(OSError):
    """The storage cannot lock, or cannot do so now."""


class Lock(Protocol):
    """Held until it is released, or until the process has ended."""

    def release(self) -> None:
        """Let another process have it. Does nothing the second time."""


class NewFile(ABC):
    """A file that is written from beginning to end, and not yet published."""

    name: str
    """The name it will be published under."""
    sink: pa.NativeFile
    """Its content goes in here."""

    @abstractmethod
    def finish(self) -> None:
        """Return when all of the content survives a crash and a power cut.

        :raises OSError: not all of it does.
        """

    @abstractmethod
    def discard(self) -> None:
        """Drop the file; later writes to its sink are ignored.

        :raises OSError: something of it may be left, under its name and `UNPUBLISHED`.
        """


class Storage(ABC):
    """The files of one run. Every method may be called from any thread.

    Each method but `post` waits, as long as the storage is made to, while there is no room.
    """

    location: str
    """As messages name it, such as the path of the run directory."""

    @abstractmethod
    def create(self, name: str) -> NewFile:
        """A new file; an unpublished one of the same name is overwritten.

        :raises OSError: it cannot be made.
        """

    @abstractmethod
    def publish(self, file: NewFile) -> None:
        """Make a finished file visible under its name, at once and for good.

        :raises OSError: it is not visible, or might not be any more after a power cut.
        """

    @abstractmethod
    def list(self, folder: str = "") -> Sequence[str]:
        """The full names of the files directly in `folder`, in order; none if it is not there.

        :raises OSError: it cannot be read.
        """

    @abstractmethod
    def folders(self, folder: str = "") -> Sequence[str]:
        """The full names of the folders directly in `folder`, in order; none if it is not there.

        :raises OSError: they cannot be read.
        """

    @abstractmethod
    def read(self, name: str) -> pa.NativeFile:
        """A published file, open for reading at any position.

        :raises OSError: it cannot be opened.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, published or not.

        :raises OSError: it is still there, or was not there.
        """

    @abstractmethod
    def post(self, name: str, content: bytes) -> None:
        """Replace what is under `name`, in a folder that is there: for what says how things are now
        and is replaced again soon. This waits for no room, and a power cut may undo it.

        :raises OSError: it could not be done.
        """

    @abstractmethod
    def lock(self, name: str) -> Lock:
        """The lock `name`; whoever holds it keeps all other processes from it.

        :raises Locked: another process holds it.
        :raises NoLocks: the storage has no locks.
        :raises OSError: it cannot be made.
        """

    @abstractmethod
    def local_folder(self, folder: str = "") -> Path:
        """Where on this machine the log and what a process writes to standard error
        go, which are appended to."""

    @abstractmethod
    def without_waiting(self) -> "Storage":
        """The same files, written by one who does not wait for room."""

    def replace(self, name: str, content: bytes) -> None:
        """Create, finish and publish `name` with this content.

        :raises OSError: it could not be written; then a file that was there before still is.
        """
        file = self.create(name)
        try:
            file.sink.write(content)
            file.finish()
            self.publish(file)
        except BaseException:
            with contextlib.suppress(OSError):  # what kept it from being written is raised
                file.discard()
            raise


def write_fault(location: str, error: OSError) -> RunFault:
    """What to raise for an `error` while a run was written: one line, with what to do."""
    return RunFault(
        f"writing to {location} failed: {error}. {_advice(error)} and resume the run: finished "
        f"parts are kept."
    )


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        return "It was removed or unmounted meanwhile: bring it back"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Make it writable again"
    if error.errno == errno.EFBIG:
        return "Raise the limit on the size of files"
    return "Make room" if error.errno in FULL else "See to the disk"
