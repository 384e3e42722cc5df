"""`streamer verify`: do batches agree with one text at a time?"""

from rich.console import Console

from streamer.commands.flags import Count, File, Paths, Settings, config_from
from streamer.commands.run import loading
from streamer.monitoring.screen import Screen


def verify(*paths: Paths, config: File = None, records: Count = 64, flags: Settings = None) -> int:
    """Compare batches with one text at a time: residuals, and column by column.

    Prints the worst against what rounding may make; exit code 1 if one exceeds it, or if too much
    of a column cannot be compared. With --bf16 or --fp16, prints how far that is from float32, too.
    Writes no run.
    """
    settings = config_from(config, paths, flags)
    console = Console()
    with Screen(console, settings.progress) as screen:
        screen.print(loading(settings))
    from streamer.commands.verdict import batches_agree  # noqa: PLC0415

    return 0 if batches_agree(settings, records, console) else 1
