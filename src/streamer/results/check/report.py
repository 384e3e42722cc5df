"""The results of `streamer check`: a line for each verification, and the first fault."""

from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.table import Table

AGAIN = "restore it from a copy, or measure again into another directory"
OTHER_INPUT = "put the input that was read back, or measure this one into another directory"


@dataclass(slots=True)
class Line:
    """One verification. Keeps the first fault and counts the others."""

    name: str
    remedy: str = AGAIN
    """How to fix its faults."""
    found: str = ""
    """What was found, if there is no fault."""
    unchecked: bool = False
    """Whether it could not be verified; `found` gives the reason."""
    faults: int = 0
    first: str = ""

    def fault(self, text: str) -> None:
        """Record a fault: what is wrong, and in which file."""
        self.first = self.first or text
        self.faults += 1

    def skip(self, why: str) -> None:
        """Record that this was not verified, which is no fault."""
        self.unchecked, self.found = True, why

    @property
    def state(self) -> str:
        """fault, ok or not checked."""
        return "fault" if self.faults else "not checked" if self.unchecked else "ok"

    @property
    def detail(self) -> str:
        """The table's entry next to the state."""
        if not self.faults:
            return self.found
        return self.first + (f" (and {self.faults - 1:,} more)" if self.faults > 1 else "")


@dataclass(slots=True)
class Report:
    """All verifications of the run at `location`, in the order in which they are printed."""

    location: str
    manifest: Line = field(default_factory=lambda: Line("manifest"))
    files: Line = field(default_factory=lambda: Line("part files"))
    schemas: Line = field(default_factory=lambda: Line("schemas"))
    footers: Line = field(default_factory=lambda: Line("footers"))
    rows: Line = field(default_factory=lambda: Line("rows"))
    counts: Line = field(default_factory=lambda: Line("counts"))
    inputs: Line = field(default_factory=lambda: Line("input", remedy=OTHER_INPUT))
    leftovers: Line = field(default_factory=lambda: Line("left over"))
    verdict: str = ""
    """One sentence, for a run without faults."""

    @property
    def lines(self) -> list[Line]:
        """In the order of the table: causes before their consequences."""
        return [self.manifest, self.files, self.schemas, self.footers, self.rows, self.counts,
                self.inputs, self.leftovers]  # fmt: skip

    @property
    def first_fault(self) -> str | None:
        """The first fault and how to fix it; None if there is none."""
        for line in self.lines:
            if line.faults:
                return f"{self.location} does not pass: {line.first}. What to do: {line.remedy}."
        return None

    def print(self, console: Console) -> None:
        """Print the table, and the verdict if there is no fault."""
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
