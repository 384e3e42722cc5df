"""Reading a run back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streamer.errors import RunFault, UsageError, one_line
from streamer.manifest import MANIFEST, Manifest, no_run
from streamer.writing.commit import files_of
from streamer.writing.names import WHOLE, Names, part_of
from streamer.writing.storage.base import Storage
from streamer.writing.storage.local import LocalStorage


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A run directory, finished or not."""

    path: Path
    manifest: dict[str, Any]
    """What manifest.json says: configuration, versions, model, inputs, counts, status."""

    @property
    def storage(self) -> Storage:
        """Where its files are."""
        return LocalStorage(self.path)

    def __repr__(self) -> str:
        counts = self.manifest.get("counts", {})
        return f"Run({str(self.path)!r}, {self.manifest.get('status')}, {counts})"

    def table(self, name: str) -> pa.Table:
        """All finished parts of the table `name` (`metrics`, `rejected`), in input order.

        :raises UsageError: the run has no such table.
        :raises RunFault: a part is damaged.
        """
        storage = self.storage
        parts = part_names(storage, name)
        if not parts:
            folders = (folder for folder in storage.folders() if part_names(storage, folder))
            tables = ", ".join(folders)
            raise UsageError(
                f"{self.path} has no finished part of a table {name!r}; it has "
                f"{tables or 'none yet'}"
            )
        return pa.concat_tables([_read(storage, part) for part in parts]).unify_dictionaries()

    def parts(self, name: str, shard: str | None = None) -> list[Path]:
        """The finished part files of the table `name`, in order; only those of `shard` if given."""
        return [self.path / part for part in part_names(self.storage, name, shard)]


def part_names(storage: Storage, table: str, shard: str | None = None) -> list[str]:
    """The names of the finished parts of `table`, in order; only those of `shard` if given."""
    files = files_of(storage, table)
    parts = {part: file for file in files if (part := part_of(file.rpartition("/")[2]))}
    if shard is not None:
        parts = {part: file for part, file in parts.items() if part.shard == shard}
    return [parts[part] for part in sorted(parts)]  # of a shard, beyond 99999, too


def _read(storage: Storage, part: str) -> pa.Table:
    try:
        with storage.read(part) as file:
            return pq.read_table(file, page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        where = storage.location
        raise RunFault(
            f"{where}/{part} cannot be read: {one_line(error).rstrip('.')}. `streamer check "
            f"{where}` reports more"
        ) from None


def open_run(path: str | Path) -> Run:
    """The run in the directory `path`.

    :raises UsageError: there is no run, or its manifest is damaged, or of a later format.
    """
    return Run(Path(path), manifest_of(LocalStorage(Path(path))).entries())


def manifest_of(storage: Storage, names: Names = WHOLE) -> Manifest:
    """The manifest of the run in `storage`, or of its shard of these `names`.

    :raises UsageError: there is no run, or its manifest is damaged, or of a later format.
    """
    try:
        return read_manifest(storage, names)
    except OSError as error:
        raise no_run(storage, error) from None
    except ValueError as error:
        raise UsageError(
            f"{storage.location}/{names.own(MANIFEST)} cannot be read: {error}. Choose another "
            f"path."
        ) from None


def read_manifest(storage: Storage, names: Names = WHOLE) -> Manifest:
    """The same.

    :raises OSError: there is none, or it cannot be read.
    :raises ValueError: it is damaged, which says where; or of a later format.
    """
    with storage.read(names.own(MANIFEST)) as file:
        return Manifest.parse(file.read())
