"""`streamer resume`: go on with a run."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from streamer.commands.run import run_to_end
from streamer.config import load_config
from streamer.errors import UsageError


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
    return run_to_end(load_config(overrides=manifest["config"] | {"out": out}))
