"""What a crash leaves in a run directory, and its removal: that, and nothing else."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streamer.errors import RunFault, UsageError
from streamer.results.check.manifest import Manifest, read_manifest
from streamer.results.check.parts import Damaged, Listing, OpenPart, list_parts, name_of
from streamer.tables import TABLES, Table, leading
from streamer.writing.commit import orphans, unpublished_files
from streamer.writing.storage.base import Locked
from streamer.writing.storage.local import LocalStorage
from streamer.writing.storage.new_folder import LOCK


@dataclass(slots=True)
class Leftovers:
    """Files of a run directory that are not of the run."""

    removable: list[Path] = field(default_factory=list)
    """Temporary files, and parts of the commit that a crash interrupted."""
    unexplained: list[Path] = field(default_factory=list)
    """Parts beyond the last commit that no crash leaves: leading parts must be missing. Going on
    would remove them, too, and do their rows again."""


def find_leftovers(path: Path, listing: Listing, manifest: Manifest) -> Leftovers:
    """What lies in the run directory `path` beside the run.

    A crash interrupts one commit, the one after the last, whose rows follow those of the last.
    Other parts that lack their leading part are the only trace of rows that were lost.
    """
    storage = LocalStorage(path)
    leftovers = Leftovers([path / name for name in unpublished_files(storage)])
    end_row = _end_row(listing)
    for name in orphans(storage, listing.leading):
        file = path / name
        follows = False
        with contextlib.suppress(Damaged), OpenPart(file) as part:
            follows = part.footer().first_row == end_row and not manifest.is_closed
        interrupted = follows and file.name == name_of(listing.last + 1)
        (leftovers.removable if interrupted else leftovers.unexplained).append(file)
    return leftovers


def _end_row(listing: Listing) -> int | None:
    """The row behind the last commit; None if its footer does not tell."""
    if listing.last < 0:
        return 0
    try:
        with OpenPart(listing.commits[listing.last]) as part:
            return part.footer().end_row
    except Damaged:
        return None


def is_being_written(path: Path) -> bool:
    """Whether a process holds the lock of the run directory `path` now."""
    if not (path / LOCK).exists():  # looking must not make it
        return False
    try:
        LocalStorage(path).lock(LOCK).release()
    except Locked:
        return True
    except OSError:  # a directory where nothing can be written
        return False
    return False


def repair(path: Path, tables: Sequence[Table] = TABLES) -> list[str]:
    """Remove from the run directory `path`, which has these `tables`, what a crash left; the names
    of what was removed.

    Holds the run's lock meanwhile.

    :raises UsageError: there is no run, or a process is writing it.
    :raises RunFault: something could not be removed.
    """
    try:
        read_manifest(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"no run in {path}, or a damaged one: {error}") from None
    storage = LocalStorage(path)
    try:
        lock = storage.lock(LOCK)
        try:
            # read under the lock: another process may just have finished the run
            manifest = read_manifest(path)
            listing = list_parts(path, leading(tables).name)
            removable = find_leftovers(path, listing, manifest).removable
            names = [str(file.relative_to(path)) for file in removable]
            for name in names:
                storage.remove(name)
        finally:
            lock.release()
    except Locked:
        raise UsageError(
            f"{path} is being written by another process: nothing was removed. Wait for its end, "
            f"or stop it."
        ) from None
    except OSError as error:
        raise RunFault(f"repairing {path} failed: {error}. Make it writable.") from error
    return names
