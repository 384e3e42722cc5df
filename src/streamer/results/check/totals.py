"""Totals of the commits of a run."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Totals:
    """Totals of the commits so far; None where a damaged or missing part hides them."""

    held: dict[str, int | None]
    """Rows of each table whose rows stand for input rows, by the name of their count."""
    end_row: int | None = 0
    unwritten: int = 0
    """Rows before `end_row` that no shard has written."""
    sources: Counter[str] = field(default_factory=Counter)
    """Input records by source, good and bad."""

    @property
    def records(self) -> int | None:
        """Input rows that the commits cover."""
        return None if self.end_row is None else self.end_row - self.unwritten

    def add(self, other: "Totals") -> None:
        """Add the totals of the next shard."""
        for name, more in other.held.items():
            before = self.held[name]
            self.held[name] = None if before is None or more is None else before + more
        self.end_row = other.end_row
        self.unwritten += other.unwritten
        self.sources += other.sources

    def as_text(self) -> list[str]:
        """How many rows there are of each kind, as text."""
        return [f"{count or 0:,} {name}" for name, count in self.held.items()]
