"""How fast this model measures this data on this device, by batch size: for `streamer tune`."""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tomlkit
from rich.console import Console
from rich.table import Table
from tomlkit.exceptions import TOMLKitError

from streamer.batches import Batch
from streamer.commands.sample import Sample, take_sample, tell
from streamer.computing.fault_isolation import FaultIsolation
from streamer.config import RunConfig
from streamer.device.memory import PeakMemory
from streamer.device.settings import in_use
from streamer.errors import UsageError
from streamer.monitoring.display import as_text
from streamer.planning.budget import Budget
from streamer.planning.planner import Planner
from streamer.records import Chunk

AS_GOOD = 0.95
"""Of settings this close to the fastest, the smallest is recommended: it needs least memory."""
Key = Literal["batch_size", "max_tokens"]


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured with one setting."""

    size: int
    seconds: float
    """For the whole sample, median of the repeats."""
    per_second: float
    """Records."""
    peak: int
    """Bytes: of the device, or of the process where that is a CPU."""
    splits: int = 0
    """How often a batch was split because it did not fit the memory."""


def recommend(
    config: RunConfig,
    *,
    key: Key,
    sizes: Sequence[int],
    records: int,
    repeats: int,
    write: Path | None,
    console: Console,
) -> None:
    """Measure the first `records` in batches of each of `sizes` (records, or token positions), in
    turns; print what was found; and write the best into the TOML file `write`.

    :raises UsageError: the configuration, a size or the file is wrong.
    """
    if min(sizes) < 1 or repeats < 1:
        raise UsageError("batch sizes, token budgets and repeats must be at least 1")
    document = _document(write) if write else None
    sample = take_sample(config, records)
    tell(sample.notes, console)
    with in_use(sample.worker.model.device, deterministic=config.deterministic):
        trials = measure(sample, key, sizes, repeats)
    best = recommended(trials)
    _print(trials, best, key, len(sample.records), console)
    if document is not None and write is not None:
        document[key] = best.size
        try:
            write.write_text(tomlkit.dumps(document), "utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {write}: {error}") from None
        console.print(f"{key} = {best.size} is in {write}", highlight=False)


def measure(sample: Sample, key: Key, sizes: Sequence[int], repeats: int) -> list[Trial]:
    """A trial for each size. All are run in turns, so that other load on the machine affects all
    alike. The first turn measures memory and no time: it warms up."""
    batches = {size: _batches(sample, key, size) for size in sizes}
    computing = FaultIsolation(sample.worker)
    computing.process(batches[sizes[-1]][0])  # so that one-time setup counts for none

    def run(size: int) -> None:
        results = [result for batch in batches[size] for result in computing.feed(batch)]
        splits[size] += sum(
            result.counts.out_of_memory_splits for result in [*results, *computing.drain()]
        )

    splits = dict.fromkeys(sizes, 0)
    peaks, seconds = {}, {size: list[float]() for size in sizes}
    for size in sizes:
        with PeakMemory(sample.worker.model.device) as peak:
            run(size)
        peaks[size] = peak.bytes
    for _ in range(repeats):
        for size in sizes:
            begin = time.perf_counter()
            run(size)
            seconds[size].append(time.perf_counter() - begin)
    return [
        Trial(size, median, len(sample.records) / median, peaks[size], splits[size])
        for size in sizes
        for median in [statistics.median(seconds[size])]
    ]


def recommended(trials: Sequence[Trial]) -> Trial:
    """The smallest that is as good as the fastest, of those whose batches were run whole.

    :raises UsageError: none were.
    """
    whole = [trial for trial in trials if not trial.splits]
    if not whole:
        raise UsageError(
            "batches of every size were split, as they did not fit the memory: try smaller sizes"
        )
    fastest = max(trial.per_second for trial in whole)
    good = [trial for trial in whole if trial.per_second >= AS_GOOD * fastest]
    return min(good, key=lambda trial: trial.size)


def _batches(sample: Sample, key: Key, size: int) -> list[Batch]:
    budget = Budget(sys.maxsize, records=size) if key == "batch_size" else Budget(size)
    planner = Planner(sample.worker.packing, budget, len(sample.records), sys.maxsize)
    planner.add(Chunk.of(sample.records))
    return list(planner.cut())


def _document(file: Path) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(file.read_text("utf-8")) if file.exists() else tomlkit.document()
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise UsageError(f"cannot write into {file}: {error}") from None


def _print(trials: Sequence[Trial], best: Trial, key: Key, records: int, console: Console) -> None:
    table = Table(
        title=f"{records} records, {'records' if key == 'batch_size' else 'positions'} a batch",
        title_justify="left",
    )
    for heading in ("batch size" if key == "batch_size" else "max tokens", "time", "speed-up"):
        table.add_column(heading, justify="right")
    table.add_column("records/s", justify="right")
    table.add_column("peak memory", justify="right")
    for trial in trials:
        table.add_row(
            f"{trial.size:,}",
            f"{trial.seconds:.2f}s",
            f"{trials[0].seconds / trial.seconds:.2f}×",
            f"{trial.per_second:,.1f}",
            "out of memory, split" if trial.splits else as_text(trial.peak),
            style="bold green" if trial is best else "",
        )
    console.print(table)
    flag = "--" + key.replace("_", "-")
    console.print(
        f"Use {flag} {best.size}: {best.per_second:,.1f} records/s, the smallest within "
        f"{1 - AS_GOOD:.0%} of the fastest.",
        highlight=False,
    )
    if key == "batch_size" and best.size == max(trial.size for trial in trials):
        console.print("Larger ones may be faster still; without the flag, streamer finds out.")
