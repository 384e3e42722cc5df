"""Finds what a crash left in a run directory, and removes it and nothing else."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from streamer.errors import RunFault, UsageError
from streamer.manifest import Manifest
from streamer.results.check.parts import Damaged, Footer, Listing, OpenPart, list_parts
from streamer.results.run import manifest_of, read_manifest
from streamer.tables import TABLES, Table, leading
from streamer.writing.commit import orphans, unpublished_files, writers
from streamer.writing.names import part_of
from streamer.writing.storage.base import Locked, Storage
from streamer.writing.storage.new_folder import LOCK


@dataclass(slots=True)
class Leftovers:
    """Files in a run directory that do not belong to the run."""

    removable: list[str] = field(default_factory=list)
    """Temporary files, and parts of the commit that a crash interrupted."""
    unexplained: list[str] = field(default_factory=list)
    """Parts after the last commit that no crash leaves, so leading parts must be missing. Resuming
    would remove them, too, and measure their rows again."""


def find_leftovers(listing: Listing, manifest: Manifest) -> Leftovers:
    """The files beside those of `listing` that do not belong to the run.

    A crash interrupts one commit, the one after the last, whose rows follow those of the last.
    Other parts that lack their leading part are the only trace of rows that were lost.
    """
    leftovers, storage = Leftovers(), listing.storage
    for names in writers(storage):
        leftovers.removable += unpublished_files(storage, names)
        for name in orphans(storage, listing.leading, names):
            is_explained = not manifest.is_closed and _follows_last(name, listing)
            (leftovers.removable if is_explained else leftovers.unexplained).append(name)
    return leftovers


def _follows_last(name: str, listing: Listing) -> bool:
    """Whether the part `name` belongs to the commit after the last one of its writer."""
    part = part_of(name.rpartition("/")[2])
    assert part is not None
    last = listing.last(part.shard)
    try:
        first_row = _footer(listing.storage, name).first_row
        if last is not None:
            end_row = _footer(listing.storage, listing.commits[last]).end_row
            return part.number == last.number + 1 and first_row == end_row
    except Damaged:
        return False
    return part.number == 0 and (first_row == 0 or part.shard != "")  # a shard begins anywhere


def _footer(storage: Storage, name: str) -> Footer:
    with OpenPart(storage, name) as part:
        return part.footer()


def is_being_written(storage: Storage) -> bool:
    """Whether a process holds a lock of the run in `storage` now."""
    try:
        for names in writers(storage):
            if names.own(LOCK) in storage.list(names.folder):  # checking must not create it
                storage.lock(names.own(LOCK)).release()
    except Locked:
        return True
    except OSError:  # a directory where nothing can be written
        return False
    return False


def repair(storage: Storage, tables: Sequence[Table] = TABLES) -> list[str]:
    """Remove what a crash left of the run in `storage`, which has these `tables`; returns the names
    of the removed files.

    Holds the locks of all its writers meanwhile.

    :raises UsageError: there is no run, or another process is writing to it.
    :raises RunFault: something could not be removed.
    """
    manifest_of(storage)
    try:
        with contextlib.ExitStack() as held:
            for names in writers(storage):
                held.callback(storage.lock(names.own(LOCK)).release)
            # read under the locks: another process may just have finished the run
            manifest = read_manifest(storage)
            removed = find_leftovers(list_parts(storage, leading(tables).name), manifest).removable
            for name in removed:
                storage.remove(name)
    except Locked:
        raise UsageError(
            f"{storage.location} is being written by another process: nothing was removed. Wait "
            f"for its end, or stop it."
        ) from None
    except OSError as error:
        where = storage.location
        raise RunFault(f"repairing {where} failed: {error}. Make it writable.") from error
    return removed
