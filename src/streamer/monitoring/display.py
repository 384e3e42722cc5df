"""Progress on a screen: a live display on a terminal, plain lines elsewhere."""

from datetime import timedelta
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamer.monitoring.progress import SILENT, Progress
from streamer.monitoring.screen import Screen
from streamer.monitoring.snapshot import Snapshot

FRAMES_PER_SECOND = 4
LINE_SECONDS = 10.0


def progress_on(screen: Screen) -> Progress:
    """The progress display for `screen`: live, in lines, or none."""
    if screen.how == "none":
        return SILENT
    is_live = screen.how == "rich" or (screen.how == "auto" and screen.console.is_terminal)
    return LiveDisplay(screen) if is_live else ProgressLines(screen)


class LiveDisplay:
    """A panel that is redrawn several times a second, and removed at the end."""

    seconds = 1 / FRAMES_PER_SECOND
    owns_terminal = True

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._live = live_display(screen.console, transient=True)
        self._title = ""
        self.print = screen.print

    def begin(self, title: str) -> None:
        """Start to draw, under this title."""
        self._title = title
        self._screen.do(self._live.start)

    def show(self, now: Snapshot) -> None:
        """Draw a frame; skip it while the terminal is slow or stopped."""
        if self._screen.is_idle:
            frame = render(now, self._title)
            self._screen.do(partial(self._live.update, frame, refresh=True))

    def end(self, last: Snapshot) -> None:  # noqa: ARG002
        """Remove the panel."""
        self._screen.do(self._live.stop)

    def abandon(self) -> None:
        """Show the terminal's cursor again."""
        self._screen.do(self._screen.console.show_cursor)
        self._screen.close()


class ProgressLines:
    """A line every few seconds, and one at the end."""

    seconds = LINE_SECONDS
    owns_terminal = False

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._has_begun = False
        self.print = screen.print

    def begin(self, title: str) -> None:
        """Print nothing yet."""

    def show(self, now: Snapshot) -> None:
        """Print a line, except on the first call, when nothing has been measured yet."""
        if self._has_begun and self._screen.is_idle:
            self._screen.print(line(now))
        self._has_begun = True

    def end(self, last: Snapshot) -> None:
        """Print the last line."""
        self._screen.print(line(last))

    def abandon(self) -> None:
        """Print what is still waiting."""
        self._screen.close()


def live_display(console: Console, transient: bool) -> Live:
    """Where frames of `render` are drawn. Standard error is not redirected: it is logged."""
    return Live(console=console, auto_refresh=False, redirect_stderr=False, transient=transient)


def line(now: Snapshot) -> str:
    """`Progress: 80/200 samples | Rate: 8.5 samples/sec | ETA: 14s | Peak memory: 1.2 GB`"""
    peak = as_text(now.memory.process_peak)
    if now.memory.device_peak is not None:
        peak += f", device {as_text(now.memory.device_peak)}"
    return (
        f"Progress: {now.done}/{_total(now)} samples"
        f" | Rate: {now.records_per_second:.1f} samples/sec"
        f" | ETA: {duration(now.seconds_left)} | Peak memory: {peak}"
        f"{f' | {now.note}' if now.note else ''}"
    )


def render(now: Snapshot, title: str) -> RenderableType:
    """The live display."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", justify="right", no_wrap=True)
    rows.add_column()
    rows.add_row("done", _bar(now))
    rows.add_row(
        "rate", f"{now.records_per_second:,.1f} records/s   {now.tokens_per_second:,.0f} tokens/s"
    )
    rows.add_row("time", f"{duration(now.seconds)} gone   {duration(now.seconds_left)} to go")
    rows.add_row("queues", "   ".join(f"{name} {share:4.0%}" for name, share in now.fill.items()))
    rows.add_row("stages", _stages(now))
    rows.add_row("batch", f"{now.batch_records} records   rejected {now.rejected:,}")
    rows.add_row("memory", _memory(now))
    if now.note:
        rows.add_row("note", Text(now.note, "bold red"))
    border = "red" if now.note else "cyan"
    return Panel(rows, title=Text(title), title_align="left", border_style=border)


def _bar(now: Snapshot) -> RenderableType:
    cells = Table.grid(padding=(0, 1))
    bar = ProgressBar(
        total=1.0, completed=now.fraction or 0.0, width=34, pulse=now.fraction is None
    )
    share = f"{now.fraction:4.0%}" if now.fraction is not None else "  ? "
    cells.add_row(bar, share, f"{now.done}/{_total(now)}")
    return cells


def _stages(now: Snapshot) -> RenderableType:
    text = Text()
    for stage, share in now.busy.items():
        style = "bold yellow" if stage == now.slowest else ""
        text.append(f"{stage} {share:4.0%}", style).append("   ")
    return Group(text, Text(f"{now.slowest} holds the others back", style="dim"))


def _memory(now: Snapshot) -> str:
    memory = now.memory
    text = f"{as_text(memory.process)} (peak {as_text(memory.process_peak)})"
    if memory.device is not None and memory.device_peak is not None:
        text += f"   device {as_text(memory.device)} (peak {as_text(memory.device_peak)})"
    return text


def _total(now: Snapshot) -> str:
    if now.total is None:
        return "?"
    return f"{now.total:.0f}" if now.total_is_known else f"~{now.total:.0f}"


def as_text(size: float) -> str:
    """Bytes with a unit: 1.2 GB."""
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def duration(seconds: float | None) -> str:
    """14s, or 1:02:03 from a minute on; ? if unknown."""
    if seconds is None:
        return "?"
    return f"{seconds:.0f}s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
