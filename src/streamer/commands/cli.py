"""The console script: the commands by name, and what an error prints and returns.

torch is imported only once a command needs it.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cyclopts
from rich.console import Console
from rich.markup import escape

from streamer import __version__
from streamer.commands.check import check
from streamer.commands.resume import resume
from streamer.commands.run import run
from streamer.commands.tune import tune
from streamer.commands.verify import verify
from streamer.commands.watch import watch
from streamer.concurrency.threads import a_thread_hangs
from streamer.errors import StreamerError, UsageError
from streamer.monitoring.screen import Screen

app = cyclopts.App(
    name="streamer",
    version=__version__,
    help="Streams JSON through a language model and its sparse autoencoders and writes what it "
    "measures to Parquet.",
    help_format="plaintext",
)
for command in (run, resume, tune, verify, watch, check):
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exit codes: 0 done; 1 broken off, or not verified; 2 usage; 128 + signal
    if stopped."""
    try:
        _require_working_directory()
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        see = " ".join(["streamer", *(error.command_chain or ()), "--help"])
        _complain(f"[red]error:[/red] {escape(str(error))} See `{see}`.")
        code = UsageError.exit_code
    except StreamerError as error:
        _complain(f"[red]error:[/red] {escape(str(error))}")
        code = error.exit_code
    except KeyboardInterrupt:
        _complain("stopped")
        code = 130
    if a_thread_hangs():  # Python would wait for it, or for what it holds
        os._exit(code or 0)
    sys.exit(code or 0)


def _require_working_directory() -> None:
    """Return if the working directory is there, which relative paths are from.

    :raises UsageError: it was removed.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError(
            "the working directory has been removed. Change to one that is there."
        ) from None


def _complain(text: str) -> None:
    console = Console(stderr=True, soft_wrap=True)
    with Screen(console, "lines") as screen:
        screen.do(partial(console.print, text, highlight=False))
