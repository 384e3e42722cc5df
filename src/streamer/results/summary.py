"""What a run says at its end: counts, rates, time by stage, and facts against hallucinations."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from streamer.device.memory import Memory
from streamer.monitoring.counters import Counters
from streamer.monitoring.display import as_text
from streamer.tables import Column, RunTables, leading

SHOWN_DOMAINS = 20
SHOWN_REASONS = 10
KEPT_DOMAINS = 1000
"""Domains counted one by one; a field that differs in every record must not fill the memory."""
OTHERS = "(others)"
DOMAIN = "domain"
"""The carried column that records are grouped by."""


class DomainMeans:
    """Running means by domain of fact and hallucination, from rows as they are written."""

    def __init__(self, columns: Sequence[Column]) -> None:
        """`columns`: the measurements that rows have, those of a pair among them."""
        self._pairs = _pairs(columns)
        self._headings = {column.metric: column.heading or column.metric for column in columns}
        self._sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.records: dict[str, int] = defaultdict(int)

    def add(self, table: pa.Table) -> None:
        """Take rows of the table that has the columns; without pairs or a domain they add none."""
        *names, _ = self.wanted(table.column_names) or [""]
        if not names:
            return
        wanted = [(name, how) for name in names for how in ("sum", "count")]
        grouped = table.group_by(DOMAIN).aggregate([*wanted, ([], "count_all")])
        for row in grouped.to_pylist():
            domain = str(row[DOMAIN])
            if domain not in self.records and len(self.records) >= KEPT_DOMAINS:
                domain = OTHERS
            self.records[domain] += row["count_all"]
            for name in names:
                self._sums[domain][name] += row[f"{name}_sum"] or 0.0
                self._counts[domain][name] += row[f"{name}_count"]

    def wanted(self, names: Sequence[str]) -> list[str]:
        """Of the columns `names`, those that the means are made of: measurements, then `domain`;
        none if there is nothing to compare."""
        found = [side for pair in self._pairs.values() for side in pair if side in names]
        return [*found, DOMAIN] if found and DOMAIN in names else []

    def merge(self, other: "DomainMeans") -> None:
        """Take what `other` has taken."""
        for domain, records in other.records.items():
            into = domain
            if domain not in self.records and len(self.records) >= KEPT_DOMAINS:
                into = OTHERS
            self.records[into] += records
            for name, count in other._counts[domain].items():
                self._sums[into][name] += other._sums[domain][name]
                self._counts[into][name] += count

    def mean(self, domain: str, name: str) -> float | None:
        """Mean of the column `name` over the records of `domain` that have it."""
        count = self._counts[domain][name]
        return self._sums[domain][name] / count if count else None

    def table(self) -> Table | None:
        """Fact → hallucination for the largest domains; None if there is nothing to compare."""
        if not self.records:
            return None
        largest = sorted(self.records, key=lambda domain: (-self.records[domain], domain))
        pairs = {
            metric: pair
            for metric, pair in self._pairs.items()
            if any(self._counts[domain][pair[0]] for domain in largest)
        }
        table = Table(
            title="Means by domain: fact → hallucination",
            title_justify="left",
            box=None,
            pad_edge=False,
            header_style="bold",
        )
        table.add_column("domain")
        table.add_column("records", justify="right")
        for metric in pairs:
            heading = self._headings[metric].replace("_", "\n")
            table.add_column(heading, justify="right", no_wrap=True)
        for domain in largest[:SHOWN_DOMAINS]:
            sides = [
                f"{_number(self.mean(domain, fact))}→{_number(self.mean(domain, hall))}"
                for fact, hall in pairs.values()
            ]
            table.add_row(domain, f"{self.records[domain]:,}", *sides)
        if len(largest) > SHOWN_DOMAINS:
            table.add_row(f"… {len(largest) - SHOWN_DOMAINS} more", "")
        return table


def _pairs(columns: Sequence[Column]) -> dict[str, tuple[str, str]]:
    """The columns of fact and hallucination, by metric, for the metrics of a record, in order."""
    names = {
        (column.metric, column.passage): column.name
        for column in columns
        if column.layer is None and column.is_summed_up
    }
    return {
        metric: (name, names[metric, "hall"])
        for (metric, passage), name in names.items()
        if passage == "fact" and (metric, "hall") in names
    }


class RowTotals:
    """What the rows of a run's tables add to its summary, as they are written or read back."""

    def __init__(self, tables: RunTables) -> None:
        self.leading = leading(tables.tables).name
        """The table whose measurements are averaged."""
        self.domains = DomainMeans(tables.columns)
        self.reasons: Counter[str] = Counter()
        """Why records were rejected, without particulars."""
        self._reason = {one.name: one.reason for one in tables.tables if one.reason is not None}

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of those that add something."""
        return (self.leading, *(name for name in self._reason if name != self.leading))

    @property
    def rejecting(self) -> tuple[str, ...]:
        """Names of those that say why a record is in them."""
        return tuple(self._reason)

    def wanted(self, table: str, columns: Sequence[str]) -> list[str]:
        """Of these `columns` of a table, those that `add` looks at."""
        means = self.domains.wanted(columns) if table == self.leading else []
        return [*means, self._reason[table]] if table in self._reason else means

    def add(self, rows: Mapping[str, pa.Table]) -> None:
        """Take rows of tables, by the table's name."""
        if self.leading in rows:
            self.domains.add(rows[self.leading])
        for name, column in self._reason.items():
            if name in rows:
                texts = rows[name][column].to_pylist()
                self.reasons.update(text.partition(":")[0] for text in texts)

    def merge(self, other: "RowTotals") -> None:
        """Take what `other` has taken."""
        self.domains.merge(other.domains)
        self.reasons.update(other.reasons)


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a run that came to its end, or to a stop that was asked for."""

    path: Path
    signal: int | None
    """The signal that stopped it."""
    counters: Counters
    seconds: float
    """Loading the model excluded."""
    memory: Memory
    rows: RowTotals
    """What was measured and rejected, in earlier sessions, too."""

    @property
    def per_second(self) -> float:
        """Records a second over the whole run."""
        return self.counters.session.records / max(self.seconds, 1e-9)


def print_summary(summary: Summary, console: Console) -> None:
    """Counts, rates, time by stage, where the output is, and the means by domain."""
    counters = summary.counters
    written, session = counters.written, counters.session
    shared = 1 - session.tokens_run / max(session.tokens, 1)
    padding = 1 - session.tokens_run / max(counters.positions, 1)
    peak = as_text(summary.memory.process_peak)
    if summary.memory.device_peak is not None:
        peak += f"   device {as_text(summary.memory.device_peak)}"
    cut = f", {written.truncated:,} truncated" if written.truncated else ""
    seconds = counters.busy_so_far().items()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column()
    if counters.before.records:
        cut += f"; {counters.before.records:,} of them in earlier sessions"
    table.add_row("records", f"{written.rows:,} measured, {written.rejected:,} rejected{cut}")
    reasons = summary.rows.reasons.most_common()
    for reason, count in reasons[:SHOWN_REASONS]:
        table.add_row("", escape(f"{count:,} × {reason}"))
    others = [count for _, count in reasons[SHOWN_REASONS:]]
    if others:
        table.add_row("", f"{sum(others):,} for {len(others):,} other reasons")
    if reasons:
        where = ", ".join(f"{summary.path}/{name}" for name in summary.rows.rejecting)
        table.add_row("", escape(f"each with its reason in {where}"))
    if not written.rows:
        table.add_row("", "[bold red]nothing was measured[/bold red]")
    table.add_row(
        "time",
        f"{summary.seconds:.1f}s   {summary.per_second:,.1f} records/s   "
        f"{session.tokens / max(summary.seconds, 1e-9):,.0f} tokens/s",
    )
    table.add_row("stages", "   ".join(f"{stage} {spent:.1f}s" for stage, spent in seconds))
    if counters.batches:
        table.add_row(
            "batches",
            f"{counters.batches:,}, {shared:.0%} of tokens shared, {padding:.0%} padding",
        )
    if session.reruns_in_float32:
        table.add_row("overflow", f"{session.reruns_in_float32:,} passages run again in float32")
    if session.out_of_memory_splits:
        table.add_row(
            "memory", f"ran out {session.out_of_memory_splits:,} times; batches were split"
        )
    if session.model_errors:
        table.add_row("errors", f"the model raised {session.model_errors:,}; batches were split")
    table.add_row("peak memory", peak)
    if summary.signal is not None:
        table.add_row("go on with", escape(f"streamer resume {summary.path}"))
    table.add_row("output", escape(str(summary.path)))
    leads = summary.rows.leading
    table.add_row("in DuckDB", escape(f"SELECT * FROM '{summary.path}/{leads}/*.parquet'"))
    table.add_row("in Python", escape(f"streamer.open_run('{summary.path}').table('{leads}')"))
    console.print(f"[bold]{'finished' if summary.signal is None else 'stopped'}[/bold]")
    console.print(table)
    domains = summary.rows.domains.table()
    if domains is not None:
        console.print()
        console.print(domains)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return (
        f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    )
