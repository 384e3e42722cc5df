"""The names that one writer uses in a run directory, apart from those of other writers in it.

The writer of a whole run writes `metrics/part-00000.parquet` and keeps its lock, log, status and
manifest at the top. Of several writers, each has a prefix for its parts, as in
`metrics/part-s0001-00000.parquet`, and a folder for the rest, `shards/s0001/`. Parts of a table in
the order of their names are then in the order of the shards, and those of a shard in its order.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

SHARDS = "shards"
"""The folder of the shards' folders."""
_PART = re.compile(r"part-(?:([a-z][a-z0-9]*)-)?(\d{5,})\.parquet")
_SHARD = re.compile(r"[a-z][a-z0-9]*")


class Part(NamedTuple):
    """Which part of its table a file is. Sorts as the parts are to be read."""

    shard: str
    """Empty in a run of one writer."""
    number: int

    @property
    def file(self) -> str:
        """Its name within the table's folder."""
        return f"part-{self.shard}{'-' if self.shard else ''}{self.number:05d}.parquet"


def part_of(file: str) -> Part | None:
    """The part that a file of this name is, its folder left out; None if it is none."""
    match = _PART.fullmatch(file)
    part = match and Part(match[1] or "", int(match[2]))
    return part if part and part.file == file else None


def is_shard(name: str) -> bool:
    """Whether a shard can be called `name`."""
    return _SHARD.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Names:
    """Those of one writer.

    :raises ValueError: the shard's name is not a letter and then letters and digits, all small.
    """

    shard: str = ""
    """Empty in a run of one writer. Names of one length keep shards in their order."""

    def __post_init__(self) -> None:
        if self.shard and not is_shard(self.shard):
            raise ValueError(f"a shard cannot be called {self.shard!r}")

    def part(self, table: str, number: int) -> str:
        """The name of a part."""
        return f"{table}/{Part(self.shard, number).file}"

    @property
    def folder(self) -> str:
        """That of lock, log, status and manifest; empty for the top of the run directory."""
        return f"{SHARDS}/{self.shard}" if self.shard else ""

    def own(self, name: str) -> str:
        """The full name of a file in `folder`."""
        return f"{self.folder}/{name}" if self.folder else name


WHOLE = Names()
"""Those of a run of one writer."""
