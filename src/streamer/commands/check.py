"""`streamer check`: is a run whole?"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from streamer.errors import RunFault


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
    from streamer.writing.storage.local import LocalStorage  # noqa: PLC0415

    console, storage = Console(), LocalStorage(run)
    if repair:
        removed = repair_run(storage)
        names = ", ".join(removed) or "nothing"
        console.print(f"removed: {names}", highlight=False, markup=False, soft_wrap=True)
    with console.status("") as status:
        report = check_run(
            storage, not no_input, lambda what: status.update(f"checking {escape(what)}")
        )
    report.print(console)
    if report.first_fault is not None:
        raise RunFault(report.first_fault)
    return 0
