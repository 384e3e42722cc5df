"""Streams JSON through a language model and its sparse autoencoders, and writes what it measures.

import streamer

run = streamer.run(streamer.RunConfig(paths=["records.jsonl"], out="RUN"))
run.table("metrics").to_pandas()
"""

from typing import TYPE_CHECKING

from streamer._version import __version__
from streamer.config import RunConfig, load_config
from streamer.errors import RunFault, StreamerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamer.results.run import Run
    from streamer.results.summary import Summary
    from streamer.running.prepare import Prepared
    from streamer.tables import Table

__all__ = [
    "RunConfig",
    "RunFault",
    "StreamerError",
    "UsageError",
    "__version__",
    "load_config",
    "open_run",
    "run",
]


def run(config: RunConfig, tables: "Sequence[Table] | None" = None) -> "Run":
    """Process everything `config` names and return the finished run; go on with one that is begun.

    `tables` are what it puts out, by default `streamer.tables.TABLES`. Works in a notebook too.
    Shows the same progress as the command; `progress="none"` for silence.

    :raises UsageError: something in `config` is wrong or missing.
    :raises RunFault: the run broke off.
    :raises KeyboardInterrupt: it was stopped, after draining what was in flight.
    """
    from rich.console import Console  # noqa: PLC0415

    from streamer.monitoring.display import progress_on  # noqa: PLC0415
    from streamer.monitoring.screen import Screen  # noqa: PLC0415
    from streamer.running.prepare import prepare  # noqa: PLC0415
    from streamer.tables import TABLES  # noqa: PLC0415

    with Screen(Console(), config.progress) as screen:
        prepared = prepare(
            config, progress=progress_on(screen), tables=TABLES if tables is None else tables
        )
        if prepared.is_finished:
            prepared.leave()
            return open_run(prepared.out)
        summary = _run(prepared)
    if summary.signal is not None:
        raise KeyboardInterrupt(f"stopped; what was measured is in {prepared.out}")
    return open_run(prepared.out)


def _run(prepared: "Prepared") -> "Summary":
    import asyncio  # noqa: PLC0415
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    import anyio  # noqa: PLC0415

    from streamer.running.run import run as run_prepared  # noqa: PLC0415

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return anyio.run(run_prepared, prepared)
    with ThreadPoolExecutor(1) as thread:  # a notebook's loop is running: run in another thread's
        running = thread.submit(lambda: anyio.run(run_prepared, prepared))
        try:
            return running.result()
        except BaseException:
            prepared.loader.stop()
            raise


def open_run(path: "str | Path") -> "Run":
    """The run in the directory `path`: `.table("metrics")`, `.table("rejected")`, `.manifest`.

    :raises UsageError: there is no run.
    """
    from streamer.results.run import open_run as open_path  # noqa: PLC0415

    return open_path(path)
