"""Resuming a run: whether settings, inputs and model allow it, and what was found so far."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow.parquet as pq

from streamer.config import RunConfig
from streamer.errors import RunFault, UsageError
from streamer.loading.identity import changes
from streamer.manifest import Manifest, ModelEntry, SaeEntry
from streamer.records import InputRange
from streamer.results.summary import RowTotals
from streamer.tables import Table
from streamer.writing.commit import Checkpoint
from streamer.writing.storage.base import Storage

FREE = {
    "paths",  # the inputs themselves are compared
    "out",
    "kind",  # compared with what was found
    "revision",  # the commits that they name are compared
    "sae_revision",
    "allow_other_model",  # the model and the SAEs themselves are compared
    "progress",
    "disk_wait_seconds",
    "stall_seconds",
    "metrics_port",
    "metrics_address",
    "overlap",
    "prefetch_records",
    "row_group_rows",
    "part_rows",
    "part_bytes",
    "part_seconds",
}
"""Settings that may differ when a run is resumed: no row and no number depends on them."""
BATCHING = {
    "device",
    "forward",
    "sharing",
    "batch_size",
    "max_tokens",
    "window",
    "prefetch_bytes",
}
"""Settings that may differ as well unless the run is deterministic: they change rounding."""
EARLIER: dict[str, Any] = {"noise_draws": 1}
"""Settings that earlier versions lacked, and what these did, where that is not the default now."""
MODEL_KEYS = ("files", "content", "revision", "dtype", "autocast", "bos")
NOT_ALWAYS_RECORDED = ("content", "revision")
"""By earlier versions."""


def as_begun(config: RunConfig, earlier: Manifest) -> RunConfig:
    """`config`, with what the version did that began the `earlier` session, where `config` does not
    say otherwise and that version had no such setting."""
    recorded = earlier.config.model_dump(exclude_unset=True)
    given = config.model_fields_set
    did = {key: value for key, value in EARLIER.items() if key not in recorded.keys() | given}
    return config.model_copy(update=did)


def refuse_changes(
    where: str,
    earlier: Manifest,
    config: RunConfig,
    inputs: Sequence[Mapping[str, Any]],
    part: InputRange,
) -> None:
    """Return if the run at `where` may be resumed with these settings, and this part of the inputs.

    :raises UsageError: naming all that differs.
    """
    now = config.model_dump(mode="json")
    recorded = earlier.config.model_dump(mode="json", exclude_unset=True)
    # an older run lacks newer settings
    before = RunConfig().model_dump(mode="json") | EARLIER | recorded
    read = [one.model_dump() for one in earlier.inputs]
    free = FREE if config.deterministic else FREE | BATCHING
    if config.follow:  # the inputs change, so what names them must not
        free, inputs = free - {"paths"}, read
    found = [
        f"{key} was {before.get(key)!r} and is {value!r}"
        for key, value in now.items()
        if key not in free and before[key] != value
    ]
    found += [
        f"{key} was {value!r}, which this version does not know"
        for key, value in before.items()
        if key not in now
    ]
    if config.kind not in ("auto", earlier.kind):
        found.append(f"its records were {earlier.kind!r} and are to be {config.kind!r}")
    if earlier.range != part:
        before_it, after = asdict(earlier.range), asdict(part)
        found.append(f"it was to read the range {before_it} of the input, and now {after}")
    old = {one["name"]: one for one in read}
    new = {one["name"]: dict(one) for one in inputs}
    found += [f"it has read {name}, which is not named now" for name in old if name not in new]
    found += [f"it was not to read {name}" for name in new if name not in old]
    for name in old.keys() & new.keys():
        found += [f"{name} was changed: {change}" for change in changes(old[name], new[name])]
    _refuse(where, found)


def refuse_other_tables(where: str, begin: Checkpoint, tables: Sequence[Table]) -> None:
    """Return if the run at `where`, of which `begin` was committed, puts out these tables.

    :raises UsageError: it does not.
    """
    now = {table.name for table in tables}
    if begin.number and begin.tables != now:
        was, are = (", ".join(sorted(names)) for names in (begin.tables, now))
        _refuse(where, [f"its tables were {was} and are {are}"])


def refuse_other_columns(
    where: str,
    earlier: Manifest,
    begin: Checkpoint,
    now: Mapping[str, Sequence[str]],
    measured: Sequence[str],
) -> None:
    """Return if the tables of the run at `where`, of which `begin` was committed, have the columns
    that they have `now`, by the table's name. `measured` are the last of the table that leads: the
    first versions named no others.

    :raises UsageError: they do not.
    """
    if not begin.number:
        return
    pairs = {
        f"its table {table}": (before, now.get(table, ()))
        for table, before in earlier.tables.items()
    } or {"it": (earlier.columns, measured)}
    by = earlier.versions.get("streamer", "?")
    _refuse(
        where,
        [
            f"{what}, by streamer {by}, {_differing(before, after)}"
            for what, (before, after) in pairs.items()
            if before and tuple(before) != tuple(after)
        ],
    )


def _differing(before: Sequence[str], now: Sequence[str]) -> str:
    """How the columns of a table that had those `before` differ from those `now`."""
    lacks = [name for name in now if name not in before]
    has = [name for name in before if name not in now]
    if not lacks and not has:
        return f"had the columns in another order: {', '.join(before)}, and not {', '.join(now)}"
    said = [f"lacks the columns {', '.join(lacks)}, which are measured now"] if lacks else []
    said += [f"has the columns {', '.join(has)}, which are not measured now"] if has else []
    return f"{' and '.join(said)} (the version that began it can finish it)"


def refuse_another_model(
    where: str, earlier: Manifest, model: ModelEntry, saes: Sequence[SaeEntry]
) -> None:
    """Return if the run at `where` was begun with this model and these SAEs, described as in the
    manifest.

    :raises UsageError: naming what differs.
    """
    before = (earlier.model or ModelEntry()).model_dump()
    found = [
        f"the model's {key} was {before[key]} and is {now}"
        for key in MODEL_KEYS
        for now in [getattr(model, key)]
        if before[key] != now and (key not in NOT_ALWAYS_RECORDED or before[key] is not None)
    ]
    if not before["tokenizer"] and not model.tokenizer_is_transformers:
        found.append("its tokens were those of AutoTokenizer and are those of the model's files")
    by_layer = {old.layer: old for old in earlier.saes}
    for old, new in ((by_layer[new.layer], new) for new in saes if new.layer in by_layer):
        if old.files != new.files or old.content not in (None, new.content):
            found.append(f"the SAE of layer {new.layer} has other files than it had")
        found += [  # that an older version did not honour
            f"the SAE of layer {new.layer} was {key} = {was} and is {key} = {now}"
            for key in ("centred", "signed")
            for was, now in [(getattr(old, key), getattr(new, key))]
            if was != now
        ]
        if old.revision not in (None, new.revision):
            found.append(
                f"the SAE of layer {new.layer} was revision {old.revision} and is {new.revision}"
            )
    _refuse(where, found)


def read_earlier(
    totals: RowTotals, storage: Storage, earlier: Mapping[str, Sequence[str]]
) -> RowTotals:
    """`totals`, to which is added what the parts of `earlier` sessions, by their table, add to the
    summary. Reads every part.

    :raises RunFault: a part is damaged.
    """
    part = ""
    try:
        for table, parts in earlier.items():
            for part in parts:
                with (
                    storage.read(part) as file,
                    pq.ParquetFile(file, page_checksum_verification=True) as opened,
                ):
                    wanted = totals.wanted(table, opened.schema_arrow.names)
                    totals.add({table: opened.read(columns=wanted)})
    except Exception as error:  # whatever a damaged part makes of its readers
        where = storage.location
        raise RunFault(
            f"{where}/{part} is damaged: {error}. `streamer check {where}` reports more"
        ) from None
    return totals


def _refuse(where: str, found: Sequence[str]) -> None:
    if found:
        raise UsageError(
            f"{where} cannot go on, as its rows would not fit together: {'; '.join(found)}. Undo "
            f"that, choose another directory with --out, or begin again beside it with --fresh."
        )
