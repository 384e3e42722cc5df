"""Reading a run back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streamer.errors import UsageError
from streamer.manifest import Manifest, no_run
from streamer.writing.names import part_of


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A run directory, finished or not."""

    path: Path
    manifest: dict[str, Any]
    """What manifest.json says: configuration, versions, model, inputs, counts, status."""

    def __repr__(self) -> str:
        counts = self.manifest.get("counts", {})
        return f"Run({str(self.path)!r}, {self.manifest.get('status')}, {counts})"

    def table(self, name: str) -> pa.Table:
        """All finished parts of the table `name` (`metrics`, `rejected`), in input order.

        :raises UsageError: the run has no such table.
        """
        parts = self.parts(name)
        if not parts:
            tables = ", ".join(sorted(entry.parent.name for entry in self.path.glob("*/part-*")))
            raise UsageError(
                f"{self.path} has no finished part of a table {name!r}; it has "
                f"{tables or 'none yet'}"
            )
        return pa.concat_tables([pq.read_table(part) for part in parts]).unify_dictionaries()

    def parts(self, name: str, shard: str | None = None) -> list[Path]:
        """The finished part files of the table `name`, in order; only those of `shard` if given."""
        files = (self.path / name).glob("part-*.parquet")
        parts = {part: file for file in files if (part := part_of(file.name))}
        if shard is not None:
            parts = {part: file for part, file in parts.items() if part.shard == shard}
        return [parts[part] for part in sorted(parts)]  # of a shard, beyond 99999, too


def open_run(path: str | Path) -> Run:
    """The run in the directory `path`.

    :raises UsageError: there is no run, or its manifest is damaged, or of a later format.
    """
    return Run(Path(path), manifest_of(Path(path)).entries())


def manifest_of(path: Path) -> Manifest:
    """The manifest of the run in the directory `path`.

    :raises UsageError: there is no run, or its manifest is damaged, or of a later format.
    """
    try:
        return read_manifest(path)
    except OSError as error:
        raise no_run(path, error) from None
    except ValueError as error:
        raise UsageError(
            f"{path / 'manifest.json'} cannot be read: {error}. Choose another path."
        ) from None


def read_manifest(path: Path) -> Manifest:
    """The same.

    :raises OSError: there is none, or it cannot be read.
    :raises ValueError: it is damaged, which says where; or of a later format.
    """
    return Manifest.parse((path / "manifest.json").read_bytes())
