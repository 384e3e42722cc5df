"""The commands: parse, call, print, exit code. torch is imported only once a command needs it."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from streamer import __version__
from streamer.commands.flags import Flags, config_from, help_of, numbers
from streamer.concurrency.threads import a_thread_hangs
from streamer.config import STDIN, RunConfig, load_config
from streamer.errors import RunFault, StreamerError, UsageError
from streamer.monitoring.screen import Screen
from streamer.running.signals import exit_on_signal

app = cyclopts.App(
    name="streamer",
    version=__version__,
    help="Streams JSON through a language model and its sparse autoencoders and writes what it "
    "measures to Parquet.",
    help_format="plaintext",
)
Paths = Annotated[str, Parameter(help=help_of("paths"), allow_leading_hyphen=True)]
File = Annotated[
    Path | None, Parameter(help="A TOML file with any of these settings; flags override it.")
]
Settings = Annotated[Flags | None, Parameter(name="*")]
Count = Annotated[int, Parameter(help="How many of the first records to take.")]


@app.command
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
    return _run(config_from(config, paths, flags or {}), fresh=fresh)


@app.command
def resume(run: Annotated[Path, Parameter(help="The run directory.")], /) -> int:
    """Go on with a run that was stopped or killed, with the settings it was begun with."""
    from streamer.results.run import open_run  # noqa: PLC0415

    manifest, out = open_run(run).manifest, run.resolve()
    begun_in = manifest["working_directory"]
    try:
        os.chdir(begun_in)  # where its relative paths begin
    except OSError as error:
        raise UsageError(
            f"{run} was begun in {begun_in}, where its relative paths begin: {error}. Bring that "
            f"directory back."
        ) from None
    return _run(load_config(overrides=manifest["config"] | {"out": out}))


@app.command
def tune(
    *paths: Paths,
    config: File = None,
    batch_sizes: Annotated[
        str | None, Parameter(help="Records a batch to try, as in 1,4,8,16,32.")
    ] = None,
    token_budgets: Annotated[
        str | None, Parameter(help="Token positions a batch to try, as in 512,1024,2048.")
    ] = None,
    records: Count = 64,
    repeats: Annotated[int, Parameter(help="How often each is measured.")] = 3,
    write: Annotated[
        Path | None, Parameter(help="A TOML file to write the best into, made if need be.")
    ] = None,
    flags: Settings = None,
) -> int:
    """Try batch sizes on your data and model, and say which to use.

    Prints time, speed-up, samples a second and peak memory of each. Writes no run.
    """
    if batch_sizes and token_budgets:
        raise UsageError("--batch-sizes and --token-budgets exclude each other: give one of them")
    if token_budgets:
        sizes = numbers("--token-budgets", token_budgets)
    else:
        sizes = numbers("--batch-sizes", batch_sizes or "1,4,8,16,32")
    settings = config_from(config, paths, flags or {})
    console = Console()
    with Screen(console, settings.progress) as screen:
        screen.say(_loading(settings))
    from streamer.commands.tune import tune as tune_on  # noqa: PLC0415

    tune_on(
        settings,
        key="max_tokens" if token_budgets else "batch_size",
        sizes=sizes,
        records=records,
        repeats=repeats,
        write=write,
        console=console,
    )
    return 0


@app.command
def verify(*paths: Paths, config: File = None, records: Count = 64, flags: Settings = None) -> int:
    """Compare batches with one text at a time, column by column.

    Prints the largest differences against what rounding may make; exit code 1 if one exceeds it.
    Writes no run.
    """
    settings = config_from(config, paths, flags or {})
    console = Console()
    with Screen(console, settings.progress) as screen:
        screen.say(_loading(settings))
    from streamer.commands.verify import verify as verify_on  # noqa: PLC0415

    return 0 if verify_on(settings, records, console) else 1


@app.command
def watch(
    run: Annotated[Path, Parameter(help="A run directory.")],
    *,
    once: Annotated[bool, Parameter(help="Print one line and end.", negative="")] = False,
) -> int:
    """Show a run that goes on in another terminal, or went on.

    Ends with the run: exit code 0 if it finished; 1 if it was stopped, failed, or gives no sign of
    life. With --once: 0 too while it goes on.
    """
    from streamer.commands.watch import watch as watch_run  # noqa: PLC0415

    try:
        return watch_run(run, once, Console())
    except KeyboardInterrupt:
        return 130


@app.command
def check(
    run: Annotated[Path, Parameter(help="A run directory.")],
    *,
    repair: Annotated[
        bool, Parameter(help="First remove what a crash left, and nothing else.", negative="")
    ] = False,
    no_input: Annotated[
        bool, Parameter(help="Do not read the input again to count its records.", negative="")
    ] = False,
) -> int:
    """Verify that RUN has every input record once, in order, in files that are whole.

    Reads all of its files and, of a finished run, its input. Prints a table; exit code 1 with the
    first fault if there is one. A run that was killed or is being written has none for that.
    """
    from streamer.results.check.audit import check as check_run  # noqa: PLC0415
    from streamer.results.check.leftovers import repair as repair_run  # noqa: PLC0415

    console = Console()
    if repair:
        removed = repair_run(run)
        names = ", ".join(removed) or "nothing"
        console.print(f"removed: {names}", highlight=False, markup=False, soft_wrap=True)
    with console.status("") as status:
        report = check_run(
            run, not no_input, lambda what: status.update(f"checking {escape(what)}")
        )
    report.print(console)
    if report.first_fault is not None:
        raise RunFault(report.first_fault)
    return 0


def _run(config: RunConfig, *, fresh: bool = False) -> int:
    from streamer.running.prepare import prepare  # noqa: PLC0415

    console = Console()
    with Screen(console, config.progress) as screen, exit_on_signal():
        if config.kind == "auto" and (config.follow or STDIN in config.paths):
            screen.say("Waiting for the first record, to see its fields …")
        prepared = prepare(config, fresh=fresh)
        if prepared.is_finished:
            screen.say(f"{prepared.out} is finished: {prepared.begin.row:,} records.")
            return 0
        out, kind = prepared.out, prepared.loader.fields.kind
        if prepared.directory:
            screen.say(f"Going on with {out} after {prepared.begin.row:,} records.")
        else:
            screen.say(f"Measuring {kind} records into {out}.")
            screen.say(f"If it is interrupted, `streamer resume {out}` goes on.")
        screen.say(_loading(config))
        from streamer.results.summary import print_summary  # noqa: PLC0415
        from streamer.running.run import run as run_prepared  # noqa: PLC0415

        try:
            summary = anyio.run(run_prepared, prepared, console)
        except RunFault as fault:
            again = RunFault(f"{fault} (streamer resume {prepared.out})")
            again.exit_code = fault.exit_code
            raise again from fault
        screen.do(partial(print_summary, summary, console))
    return 0 if summary.signal is None else 128 + summary.signal


def _loading(config: RunConfig) -> str:
    return f"Loading {config.model} …"


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exit codes: 0 done; 1 broken off, or not verified; 2 usage; 128 + signal
    if stopped."""
    try:
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


def _complain(text: str) -> None:
    console = Console(stderr=True, soft_wrap=True)
    with Screen(console, "lines") as screen:
        screen.do(partial(console.print, text, highlight=False))
