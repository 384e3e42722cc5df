"""Showing a run while it goes on: a live display on a terminal, plain lines elsewhere."""

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import anyio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamer.monitoring.screen import Screen
from streamer.monitoring.snapshot import Snapshot

if TYPE_CHECKING:
    from streamer.monitoring.observer import Observer

FRAMES_PER_SECOND = 4
LINE_SECONDS = 10.0


async def show(observer: "Observer", screen: Screen, title: str) -> None:
    """Show the run until cancelled."""
    if is_live(screen):
        await _show_live(observer, screen, title)
    elif screen.how != "none":
        await _print_lines(observer, screen)


def is_live(screen: Screen) -> bool:
    """Whether a run shown there has the live display."""
    return screen.how == "rich" or (screen.how == "auto" and screen.console.is_terminal)


async def _show_live(observer: "Observer", screen: Screen, title: str) -> None:
    live = live_display(screen.console, transient=True)
    screen.do(live.start)
    try:
        while True:
            if screen.is_idle:  # else the terminal is slow, or stopped
                screen.do(partial(live.update, render(observer.look(), title), refresh=True))
            await anyio.sleep(1 / FRAMES_PER_SECOND)
    finally:
        screen.do(live.stop)


async def _print_lines(observer: "Observer", screen: Screen) -> None:
    observer.look()
    try:
        while True:
            await anyio.sleep(LINE_SECONDS)
            if screen.is_idle:
                screen.say(line(observer.look()))
    finally:
        screen.say(line(observer.look()))


def live_display(console: Console, transient: bool) -> Live:
    """Where `render` is shown again and again. Standard error is left alone: it has a log."""
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
        "rate", f"{now.records_per_second:,.1f} samples/s   {now.tokens_per_second:,.0f} tokens/s"
    )
    rows.add_row("time", f"{duration(now.seconds)} gone   {duration(now.seconds_left)} to go")
    rows.add_row("queues", "   ".join(f"{name} {share:4.0%}" for name, share in now.fill.items()))
    rows.add_row("stages", _stages(now))
    rows.add_row("batch", f"{now.batch_records} samples   rejected {now.rejected:,}")
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
    """Bytes as people read them: 1.2 GB."""
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
