"""Reading a run back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from streamer.errors import UsageError


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

    def parts(self, name: str) -> list[Path]:
        """The finished part files of the table `name`, in order."""
        return sorted((self.path / name).glob("part-*.parquet"))


def open_run(path: str | Path) -> Run:
    """The run in the directory `path`.

    :raises UsageError: there is no run, or its manifest is damaged.
    """
    manifest = Path(path) / "manifest.json"
    try:
        return Run(Path(path), orjson.loads(manifest.read_bytes()))
    except OSError as error:
        raise UsageError(f"no run in {path}: {error}") from None
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{manifest} is damaged: {error}") from None
