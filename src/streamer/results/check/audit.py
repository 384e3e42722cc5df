"""`streamer check`: verify everything that a run directory promises."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from streamer.errors import UsageError
from streamer.manifest import Manifest
from streamer.results.check.commits import CommitAudit
from streamer.results.check.inputs import check_inputs
from streamer.results.check.leftovers import find_leftovers, is_being_written
from streamer.results.check.parts import Listing, list_parts
from streamer.results.check.report import Report
from streamer.results.check.totals import Totals
from streamer.results.run import manifest_of, read_manifest
from streamer.tables import TABLES, Table, leading
from streamer.writing.storage.base import Storage

FIX = "`streamer check --repair` removes what a crash left"


def check(
    storage: Storage,
    read_input: bool,
    on_step: Callable[[str], Any],
    tables: Sequence[Table] = TABLES,
) -> Report:
    """Verify the run in `storage` and change nothing. `on_step` is called with each file read.

    For `tables`, verifies the columns and what the rows stand for; for other tables, that they
    belong to its commits and that their rows are in order.

    An unfinished run is verified as far as it goes; being unfinished is no fault.

    :raises UsageError: there is no run.
    """
    report = Report(storage.location)
    live = is_being_written(storage)
    leads = leading(tables).name
    manifest = _manifest(storage, leads, report)  # before the parts: they hold all that it counts
    try:
        listing = list_parts(storage, leads)
    except OSError as error:
        raise UsageError(f"cannot read {storage.location}: {error}") from None
    audit = CommitAudit(listing, tables, manifest, report, on_step)
    totals = audit.run()
    if manifest.status == "finished":
        for gap in audit.gaps:
            report.footers.fault(gap)
    _describe(report, manifest, live, audit)
    if manifest.is_closed:
        _compare_counts(report, manifest, totals)
    _inputs(report, manifest, totals, read_input, on_step)
    _leftovers(report, listing, manifest, live)
    rows = " and ".join(totals.as_text())
    goes_on = "it is being written" if live else "resuming goes on from here"
    report.verdict = (
        f"{storage.location} is whole: {rows}"
        if manifest.status == "finished"
        else f"{storage.location} is not finished ({goes_on}) and whole as far as it goes: {rows}"
    )
    return report


def _manifest(storage: Storage, leads: str, report: Report) -> Manifest:
    """The manifest; if it cannot be read but there are parts, an empty one and a fault.

    :raises UsageError: this is not a run.
    """
    try:
        return read_manifest(storage)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            if leads in storage.folders():
                report.manifest.fault(f"manifest.json cannot be read: {error}")
                return Manifest()
        return manifest_of(storage)  # raises the same, in words


def _describe(report: Report, manifest: Manifest, live: bool, audit: CommitAudit) -> None:
    """Fill in what each line shows if nothing is wrong."""
    totals = audit.totals
    now = "being written" if live else manifest.status
    if manifest.status == "running" and not live:
        now = "not finished: it was killed"
    report.manifest.found = f"{now}, by streamer {manifest.versions.get('streamer', '?')}"
    report.files.found = f"{audit.parts:,} read whole, checksums right"
    report.schemas.found = "equal in all parts of a table"
    report.footers.found = "parts are numbered without a gap, and none is missing"
    report.rows.found = f"{totals.records or 0:,}, each once and in order"
    report.counts.found = ", ".join(totals.as_text())


def _compare_counts(report: Report, manifest: Manifest, totals: Totals) -> None:
    """The manifest of a run that ended cleanly counts what its parts hold."""
    held = {**(totals.held or {}), "records": totals.records}
    for key, have in held.items():
        recorded = getattr(manifest.counts, key, None)
        if have is not None and recorded != have:
            report.counts.fault(f"manifest.json counts {recorded} {key}, the parts hold {have}")


def _inputs(
    report: Report, manifest: Manifest, totals: Totals, read_input: bool,
    on_step: Callable[[str], Any],
) -> None:  # fmt: skip
    """Compare with the input; count its records if the run is finished and whole."""
    if report.manifest.faults:
        report.inputs.skip("the manifest, which names it, cannot be read")
        return
    why = ""
    if not read_input:
        why = "--no-input"
    elif manifest.status != "finished":
        why = "the run is not finished"
    elif report.files.faults or report.schemas.faults or report.footers.faults:
        why = "parts are damaged"
    check_inputs(manifest, None if why else totals.sources, report.inputs, on_step)
    if why:
        report.inputs.found += f"; records not counted ({why})"


def _leftovers(report: Report, listing: Listing, manifest: Manifest, live: bool) -> None:
    line = report.leftovers
    if live:
        line.skip("the run is being written")
        return
    line.found, leads = "nothing", listing.leading
    line.remedy = (
        f"restore the parts of {leads} from a copy, or remove this part by hand and resume"
    )
    leftovers = find_leftovers(listing, manifest)
    for file in leftovers.unexplained:
        line.fault(
            f"{file} is beyond the last commit, which no crash explains: parts of {leads} "
            f"are missing"
        )
    if leftovers.removable:
        names = leftovers.removable
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        line.found = f"{', '.join(names[:3])}{more}: {FIX}"
