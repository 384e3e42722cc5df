"""`streamer watch`: shows the display of a run in another process, from status.json."""

import dataclasses
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psutil
from cyclopts import Parameter
from rich.console import Console

from streamer.manifest import Files
from streamer.monitoring.display import (
    FRAMES_PER_SECOND,
    LINE_SECONDS,
    duration,
    line,
    live_display,
    render,
)
from streamer.monitoring.snapshot import Snapshot
from streamer.monitoring.status import Sign, read_status

OLD_SECONDS = 15.0
"""A heartbeat this old is a bad sign: one is due every two seconds."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a run."""

    sign: Sign
    now: Snapshot
    """Its note reports an old heartbeat."""
    is_silent: bool
    """Whether its heartbeat is overdue."""
    is_over: bool
    """Whether nothing more will come: it has ended, or its process is gone."""

    @property
    def exit_code(self) -> int:
        """0 if all is well: it has finished or is working."""
        return int(self.is_silent or self.sign.status in ("stopped", "failed"))

    def __str__(self) -> str:
        return f"{'silent' if self.is_silent else self.sign.status} | {line(self.now)}"


class Watched:
    """A run whose status is read repeatedly."""

    def __init__(self, files: Files, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._clock = clock
        self._heartbeat: datetime | None = None
        self._since = 0.0

    def look(self) -> Look:
        """The run's status, and whether it is still updated."""
        sign, now = read_status(self._files)
        is_gone = sign.host == socket.gethostname() and not psutil.pid_exists(sign.pid)
        if is_gone:  # it may just have written its last status
            sign, now = read_status(self._files)
        age = self._age(sign.heartbeat)
        if sign.is_over or (age <= OLD_SECONDS and not is_gone):
            return Look(sign, now, is_silent=False, is_over=sign.is_over)
        when = sign.heartbeat.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        who = f"process {sign.pid} on {sign.host}"
        what = "is gone: it was killed" if is_gone else "hangs, or does not reach its disk"
        note = f"no sign of life since {when} ({duration(age)} ago): {who} {what}"
        return Look(sign, dataclasses.replace(now, note=note), is_silent=True, is_over=is_gone)

    def _age(self, heartbeat: datetime) -> float:
        """Seconds since the last heartbeat, by this machine's clock once a new one was seen:
        another machine's clock may be wrong."""
        if self._heartbeat is None:
            self._since = self._clock() - max(0.0, (datetime.now(UTC) - heartbeat).total_seconds())
        elif heartbeat != self._heartbeat:
            self._since = self._clock()
        self._heartbeat = heartbeat
        return self._clock() - self._since


def watch(
    run: Annotated[Path, Parameter(help="A run directory.")],
    *,
    once: Annotated[bool, Parameter(help="Print one line and end.", negative="")] = False,
) -> int:
    """Show a run that goes on in another terminal, or went on.

    Ends with the run: exit code 0 if it finished; 1 if it was stopped, failed, or gives no sign of
    life. With --once: 0 too while it goes on.
    """
    try:
        return show_until_over(run, once, Console())
    except KeyboardInterrupt:
        return 130


def show_until_over(directory: Path, once: bool, console: Console) -> int:
    """Show the run in `directory` until it is over; once: one line. Returns the exit code: 1 where
    it has failed, was stopped or gives no sign of life.

    :raises UsageError: there is no run, or it has no status.
    """
    from streamer.writing.storage.local import LocalStorage  # noqa: PLC0415

    watched = Watched(LocalStorage(directory))
    if once:
        seen = watched.look()
        _print(seen, console)
    elif console.is_terminal:
        seen = _show(watched, console)
        _print(seen, console)
    else:
        seen = _print_lines(watched, console)
    return seen.exit_code


def _show(watched: Watched, console: Console) -> Look:
    with live_display(console, transient=True) as live:
        while True:
            seen = watched.look()
            live.update(render(seen.now, seen.sign.title), refresh=True)
            if seen.is_over:
                return seen
            time.sleep(1 / FRAMES_PER_SECOND)


def _print_lines(watched: Watched, console: Console) -> Look:
    due = 0.0
    while True:
        seen = watched.look()
        if seen.is_over or time.monotonic() >= due:
            _print(seen, console)
            due = time.monotonic() + LINE_SECONDS
        if seen.is_over:
            return seen
        time.sleep(1 / FRAMES_PER_SECOND)


def _print(seen: Look, console: Console) -> None:
    console.print(str(seen), highlight=False, markup=False, soft_wrap=True)
