"""What was verified and what was found: a line for each verification, and the first fault."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

AGAIN = "restore it from a copy, or measure again into another directory"
OTHER_INPUT = "put the input that was read back, or measure this one into another directory"


@dataclass(slots=True)
class Line:
    """One verification. Holds the first fault alone, however many there are."""

    name: str
    remedy: str = AGAIN
    """What to do about its faults."""
    said: str = ""
    """What was found where there is no fault."""
    unchecked: bool = False
    """Whether it could not be looked at; `said` tells why."""
    faults: int = 0
    first: str = ""

    def fault(self, text: str) -> None:
        """Something is wrong: what, and in which file."""
        self.first = self.first or text
        self.faults += 1

    def skip(self, why: str) -> None:
        """It is not verified, which is no fault."""
        self.unchecked, self.said = True, why

    @property
    def state(self) -> str:
        """fault, ok or not checked."""
        return "fault" if self.faults else "not checked" if self.unchecked else "ok"

    @property
    def detail(self) -> str:
        """What the table says beside the state."""
        if not self.faults:
            return self.said
        return self.first + (f" (and {self.faults - 1:,} more)" if self.faults > 1 else "")


@dataclass(slots=True)
class Report:
    """All verifications of one run directory, in the order in which they are told."""

    path: Path
    manifest: Line = field(default_factory=lambda: Line("manifest"))
    files: Line = field(default_factory=lambda: Line("part files"))
    schemas: Line = field(default_factory=lambda: Line("schemas"))
    footers: Line = field(default_factory=lambda: Line("footers"))
    rows: Line = field(default_factory=lambda: Line("rows"))
    counts: Line = field(default_factory=lambda: Line("counts"))
    inputs: Line = field(default_factory=lambda: Line("input", remedy=OTHER_INPUT))
    leftovers: Line = field(default_factory=lambda: Line("left over"))
    verdict: str = ""
    """In one sentence, if nothing is wrong."""

    @property
    def lines(self) -> list[Line]:
        """In the order of the table: causes before what follows from them."""
        return [self.manifest, self.files, self.schemas, self.footers, self.rows, self.counts,
                self.inputs, self.leftovers]  # fmt: skip

    @property
    def first_fault(self) -> str | None:
        """What is wrong, and what to do about it; None if nothing is."""
        for line in self.lines:
            if line.faults:
                return f"{self.path} does not pass: {line.first}. What to do: {line.remedy}."
        return None

    def print(self, console: Console) -> None:
        """The table, and the verdict if there is no fault."""
        table = Table()
        table.add_column("verified")
        table.add_column("result")
        table.add_column("found", overflow="fold")
        styles = {"fault": "bold red", "not checked": "yellow", "ok": "green"}
        for line in self.lines:
            state = f"[{styles[line.state]}]{line.state}[/]"
            table.add_row(line.name, state, escape(line.detail))
        console.print(table)
        if self.first_fault is None:
            console.print(escape(self.verdict), highlight=False, soft_wrap=True)
