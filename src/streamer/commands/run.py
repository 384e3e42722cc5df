"""`streamer run`: measure records into a run directory."""

import signal
from functools import partial
from typing import Annotated

import anyio
from cyclopts import Parameter
from rich.console import Console

from streamer.commands.flags import File, Paths, Settings, config_from
from streamer.config import STDIN, RunConfig
from streamer.errors import RunFault
from streamer.monitoring.display import progress_on
from streamer.monitoring.screen import Screen
from streamer.running.signals import exit_on_signal


def run(
    *paths: Paths,
    config: File = None,
    fresh: Annotated[
        bool, Parameter(help="Begin again beside a run that is there.", negative="")
    ] = False,
    flags: Settings = None,
) -> int:
    """Measure every record of PATHS and write a run directory.

    The same command again goes on where a run was stopped or killed. Without arguments: the
    embedded model on the embedded records.
    """
    return run_to_end(config_from(config, paths, flags), fresh=fresh)


def run_to_end(config: RunConfig, *, fresh: bool = False) -> int:
    """Run `config` and print a summary. Returns the exit code.

    :raises UsageError: something in `config` is wrong or missing.
    :raises RunFault: the run broke off; its message says how to go on.
    """
    from streamer.running.prepare import prepare  # noqa: PLC0415

    # for the rest of the process: a terminal that goes away ends neither the run nor its summary
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    console = Console()
    with Screen(console, config.progress) as screen, exit_on_signal():
        if config.kind == "auto" and (config.follow or STDIN in config.paths):
            screen.print("Waiting for the first record, to see its fields …")
        prepared = prepare(config, fresh=fresh, progress=progress_on(screen))
        if prepared.is_finished:
            prepared.leave()
            screen.print(f"{prepared.out} is finished: {prepared.checkpoint.row:,} records.")
            return 0
        out, kind = prepared.out, prepared.loader.fields.kind
        if prepared.directory:
            screen.print(f"Going on with {out} after {prepared.checkpoint.row:,} records.")
        else:
            screen.print(f"Measuring {kind} records into {out}.")
            screen.print(f"If it is interrupted, `streamer resume {out}` goes on.")
        screen.print(loading(config))
        from streamer.results.summary import print_summary  # noqa: PLC0415
        from streamer.running.run import run as run_prepared  # noqa: PLC0415

        try:
            summary = anyio.run(run_prepared, prepared)
        except RunFault as fault:
            again = RunFault(f"{fault} (streamer resume {prepared.out})")
            again.exit_code = fault.exit_code
            raise again from fault
        screen.do(partial(print_summary, summary, console))
    return 0 if summary.signal is None else 128 + summary.signal


def loading(config: RunConfig) -> str:
    """The line that is printed before the model is loaded."""
    return f"Loading {config.model} …"
