"""Reads the input again: is it unchanged, and does it have as many records as the run?"""

import contextlib
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamer.concurrency.retry import RetryPolicy
from streamer.config import STDIN
from streamer.errors import StreamerError, UsageError
from streamer.loading.identity import changes, identity
from streamer.loading.reading import read_items
from streamer.loading.sources import Source, expand, read_bytes
from streamer.manifest import Input, Manifest
from streamer.results.check.report import Line


def check_inputs(
    manifest: Manifest,
    found: Mapping[str, int] | None,
    line: Line,
    on_step: Callable[[str], Any],
) -> None:
    """Compare each input with its entry in the manifest and, if `found` (the run's records by
    source) is given, count its records.

    Inputs that are gone, or that can be read only once, are skipped: that is no fault of the run.
    """
    if manifest.config.follow:
        line.skip("it was followed as it grew")
        return
    sources = _available(manifest)
    left = manifest.config.limit
    skipped: list[str] = []
    records = newer = 0
    for entry in manifest.inputs:
        source = sources.get(entry.name)
        of_run = found.get(entry.name, 0) if found else 0
        if source is None or not _can_be_read_again(source):
            why = "not found" if source is None else "it can be read only once"
            skipped.append(f"{entry.name} ({why})")
        else:
            problems: list[str] = []
            try:
                now = identity(source, RetryPolicy())
                problems = _changes(entry, now)
                newer += entry.modified != now["modified"]
                if found is not None:
                    count = _count(source, left, on_step)
                    records += count
                    if count != of_run:
                        problems += [f"it has {count:,} records, the run has {of_run:,} of it"]
            except StreamerError as error:
                skipped.append(f"{entry.name} ({error})")
            if problems:
                line.fault(f"{entry.name}: {'; '.join(problems)}")
        left = None if left is None else max(0, left - of_run)
    for name in sorted(set(found or ()) - {entry.name for entry in manifest.inputs}):
        line.fault(f"rows have the source {name}, which is no input in the manifest")
    line.found = f"{len(manifest.inputs) - len(skipped):,} of {len(manifest.inputs):,} unchanged"
    if found is not None:
        line.found += f", {records:,} records in them"
    if newer:
        line.found += f"; {newer:,} with another time of modification"
    if skipped:
        more = f" and {len(skipped) - 1:,} more" if len(skipped) > 1 else ""
        line.skip(f"{line.found}; not checked: {skipped[0]}{more}")


def _available(manifest: Manifest) -> dict[str, Source]:
    """The sources that the run's paths name now, relative to its working directory."""
    sources: dict[str, Source] = {}
    begun, here = manifest.working_directory, Path.cwd()
    with contextlib.suppress(OSError):
        os.chdir(begun)
    try:
        for path in manifest.config.paths:
            with contextlib.suppress(UsageError):
                for source in expand([path]):
                    sources.setdefault(source.name, source)
    finally:
        os.chdir(here)
    return sources


def _can_be_read_again(source: Source) -> bool:
    """Whether it is a file: a pipe can be read only once, and reading it would wait."""
    if source.name == STDIN:
        return False
    return "file" not in source.fs.protocol or Path(source.path).is_file()


def _changes(entry: Input, now: Mapping[str, Any]) -> list[str]:
    """How the input differs from what was read, its modification time aside: a copy has another."""
    before = entry.model_dump()
    known = {key: value if before[key] is not None else None for key, value in now.items()}
    return changes(before, {**known, "modified": entry.modified})


def _count(source: Source, most: int | None, on_step: Callable[[str], Any]) -> int:
    """How many records `source` has, at most `most`: split as the loader does, but not parsed.

    :raises RunFault: it could not be read.
    """
    read = 0

    def on_read(size: int) -> None:
        nonlocal read
        read += size
        on_step(f"{source.name}, {read / 2**20:,.0f} MB")

    items = read_items(source, read_bytes(source, on_read), 0)
    return sum(1 for _ in itertools.islice((item for item in items if item is not None), most))
