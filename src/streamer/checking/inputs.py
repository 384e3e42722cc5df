"""What was read, looked at again: is it unchanged, and does it have as many records as the run?"""

import contextlib
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamer.checking.manifest import Input, Manifest
from streamer.checking.report import Line
from streamer.config import STDIN
from streamer.errors import RunFault, UsageError
from streamer.loading.reading import read_items
from streamer.loading.sources import Source, expand, read_bytes


def check_inputs(
    manifest: Manifest,
    found: Mapping[str, int] | None,
    line: Line,
    on_step: Callable[[str], Any],
) -> None:
    """Compare each input with what the manifest says of it and, if `found` (records of the run by
    source) is given, with how many records it has.

    What is gone, or can be read only once, is not checked: that is no fault of the run.
    """
    sources = _available(manifest)
    left = manifest.config.limit
    skipped: list[str] = []
    records = 0
    for entry in manifest.inputs:
        source = sources.get(entry.name)
        of_run = found.get(entry.name, 0) if found else 0
        if source is None or not _can_be_read_again(source):
            skipped.append(f"{entry.name} ({_why_not(entry.name, source)})")
        else:
            problems = _changes(entry, source, manifest.config.follow)
            try:
                if found is not None:
                    count = _count(source, left, on_step)
                    records += count
                    if count != of_run:
                        problems += [f"it has {count:,} records, the run has {of_run:,} of it"]
            except RunFault as error:
                skipped.append(f"{entry.name} ({error})")
            if problems:
                line.fault(f"{entry.name}: {'; '.join(problems)}")
        left = None if left is None else max(0, left - of_run)
    for name in sorted(set(found or ()) - {entry.name for entry in manifest.inputs}):
        line.fault(f"rows have the source {name}, which is no input in the manifest")
    line.said = f"{len(manifest.inputs) - len(skipped):,} of {len(manifest.inputs):,} unchanged"
    if found is not None:
        line.said += f", {records:,} records in them"
    if skipped:
        more = f" and {len(skipped) - 1:,} more" if len(skipped) > 1 else ""
        line.skip(f"{line.said}; not checked: {skipped[0]}{more}")


def _available(manifest: Manifest) -> dict[str, Source]:
    """The sources that the paths of the run name today."""
    sources: dict[str, Source] = {}
    for path in manifest.config.paths:
        with contextlib.suppress(UsageError):
            for source in expand([path]):
                sources.setdefault(source.name, source)
    return sources


def _can_be_read_again(source: Source) -> bool:
    """Whether it is a file: a pipe gives what it has once, and reading it would wait."""
    if source.name == STDIN:
        return False
    return "file" not in source.fs.protocol or Path(source.path).is_file()


def _why_not(name: str, source: Source | None) -> str:
    if source is not None:
        return "it can be read only once"
    from_here = "" if "://" in name or Path(name).is_absolute() else f" from {Path.cwd()}"
    return f"not found{from_here}"


def _changes(entry: Input, source: Source, follow: bool) -> list[str]:
    """In what the input differs from what was read. Its time does not count: a copy has another."""
    then, now = entry.bytes, source.size
    if then is None or now is None or then == now or (follow and now > then):
        return []
    return [f"changed since it was read: {then:,} bytes then, {now:,} now"]


def _count(source: Source, most: int | None, on_step: Callable[[str], Any]) -> int:
    """The records in `source`, at most `most`: split as the loader does, not looked into.

    :raises RunFault: it could not be read.
    """
    read = 0

    def on_read(size: int) -> None:
        nonlocal read
        read += size
        on_step(f"{source.name}, {read / 2**20:,.0f} MB")

    items = read_items(source, read_bytes(source, on_read), 0)
    return sum(1 for _ in itertools.islice((item for item in items if item is not None), most))
