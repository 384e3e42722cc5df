"""The commands: parse, call, print, exit code. torch is imported only once a command needs it."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import anyio
import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from streamer import __version__
from streamer.config import RunConfig
from streamer.errors import StreamerError, UsageError
from streamer.flags import Flags, config_from, help_of, numbers
from streamer.threads import a_thread_hangs

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
def run(*paths: Paths, config: File = None, flags: Settings = None) -> int:
    """Measure every record of PATHS and write a run directory.

    Without arguments: the embedded model on the embedded records.
    """
    return _run(config_from(config, paths, flags or {}))


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
    _say_loading(settings, console)
    from streamer.tuning import tune as tune_on  # noqa: PLC0415

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
    _say_loading(settings, console)
    from streamer.verification import verify as verify_on  # noqa: PLC0415

    return 0 if verify_on(settings, records, console) else 1


def _run(config: RunConfig) -> int:
    from streamer.preparation import prepare  # noqa: PLC0415

    prepared = prepare(config)
    console = Console()
    _say_loading(config, console)
    from streamer.execution import run as run_prepared  # noqa: PLC0415
    from streamer.monitoring.summary import print_summary  # noqa: PLC0415

    summary = anyio.run(run_prepared, prepared, console)
    with contextlib.suppress(OSError, SystemExit):  # rich exits on a closed pipe
        print_summary(summary, console)
    return 0 if summary.signal is None else 128 + summary.signal


def _say_loading(config: RunConfig, console: Console) -> None:
    with contextlib.suppress(OSError, SystemExit):
        if config.progress != "none":
            console.print(f"Loading {config.model} …", highlight=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exit codes: 0 done; 1 broken off, or not verified; 2 usage; 128 + signal
    if stopped."""
    errors = Console(stderr=True, soft_wrap=True)
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))} See `streamer run --help`.")
        code = UsageError.exit_code
    except StreamerError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        code = error.exit_code
    except KeyboardInterrupt:
        errors.print("stopped before the run began")
        code = 130
    if a_thread_hangs():  # Python would wait for it
        sys.stdout.flush()
        os._exit(code or 0)
    sys.exit(code or 0)
