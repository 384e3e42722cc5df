"""`streamer tune`: which batch size to use."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from streamer.commands.flags import Count, File, Paths, Settings, config_from, numbers
from streamer.commands.run import loading
from streamer.errors import UsageError
from streamer.monitoring.screen import Screen


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
    """Try batch sizes on your data and model, and recommend one.

    Prints time, speed-up, records a second and peak memory of each. Writes no run.
    """
    if batch_sizes and token_budgets:
        raise UsageError("--batch-sizes and --token-budgets exclude each other: give one of them")
    if token_budgets:
        sizes = numbers("--token-budgets", token_budgets)
    else:
        sizes = numbers("--batch-sizes", batch_sizes or "1,4,8,16,32")
    settings = config_from(config, paths, flags)
    console = Console()
    with Screen(console, settings.progress) as screen:
        screen.print(loading(settings))
    from streamer.commands.trials import recommend  # noqa: PLC0415

    recommend(
        settings,
        key="max_tokens" if token_budgets else "batch_size",
        sizes=sizes,
        records=records,
        repeats=repeats,
        write=write,
        console=console,
    )
    return 0
