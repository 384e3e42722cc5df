"""What manifest.json says of a run, as far as checking needs it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

CLOSED = ("finished", "stopped")
"""How runs end in order: all that was computed is in their parts."""


@dataclass(frozen=True, slots=True)
class Config:
    """What was to be read."""

    paths: tuple[str, ...] = ()
    limit: int | None = None
    follow: bool = False
    """Whether inputs were meant to grow while they were read."""


@dataclass(frozen=True, slots=True)
class Input:
    """One source, as it was when it was read."""

    name: str
    bytes: int | None = None
    modified: str | None = None
    head: str | None = None
    tail: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a run; what an unreadable one does not say is empty."""

    status: str = "unknown"
    config: Config = Config()
    working_directory: str = "."
    """Where its relative paths begin."""
    columns: tuple[str, ...] = ()
    """Of the metrics, in the order of the table."""
    inputs: tuple[Input, ...] = ()
    counts: dict[str, Any] = field(default_factory=dict)
    """Totals, once the run has ended."""
    versions: dict[str, Any] = field(default_factory=dict)
    cause: str | None = None
    """Why the run broke off, or could not be stopped in order."""

    @property
    def is_closed(self) -> bool:
        """Whether the run ended in order, finished or not."""
        return self.status in CLOSED and self.cause is None


def read_manifest(run: Path) -> Manifest:
    """The manifest of the run directory `run`.

    :raises OSError: there is none, or it cannot be read.
    :raises ValueError: it is damaged; says where.
    """
    try:
        said: Any = orjson.loads((run / "manifest.json").read_bytes())
        if not isinstance(said, dict) or "status" not in said:
            raise ValueError("it is not the manifest of a run")
        return TypeAdapter(Manifest).validate_python(said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}, found {first['input']!r:.80}") from None
