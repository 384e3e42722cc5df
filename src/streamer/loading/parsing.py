"""From an item to a record or a rejection: its fields are found by role and checked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from streamer.config import KINDS, ROLES, CarryType, Kind, RunConfig
from streamer.errors import UsageError
from streamer.loading.sources import stem_of
from streamer.records import Carried, Item, Record, Rejection

PEEK_RECORDS = 100
"""Most records examined to find their kind."""
TYPE_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}
ACCEPTED: dict[CarryType, tuple[type, ...]] = {
    "string": (str,),
    "int64": (int,),
    "float64": (float, int),
    "bool": (bool,),
}


@dataclass(frozen=True, slots=True)
class Fields:
    """Which JSON keys hold what, for one kind of record."""

    kind: Kind
    keys: Mapping[str, str]
    """Role to JSON key, for `id` and every role of the kind."""
    carry: Mapping[str, CarryType]
    max_bytes: int
    separator: str
    """Between the prompt of a contrast record and what follows it."""


class _BadRecord(Exception):
    """Why a record is rejected."""


def settle_fields(config: RunConfig, items: Iterator[Item | None]) -> tuple[Fields, list[Item]]:
    """The fields to read, and the items consumed from `items` to find them.

    The kind is the configured one, or the first for which an object has all fields.

    :raises UsageError: none of the first objects has all fields of a kind.
    """
    taken: list[Item] = []
    kind = config.kind if config.kind != "auto" else _peek(items, taken, config.field)
    keys = _keys(kind, config.field)
    fields = Fields(kind, keys, config.carry, config.max_record_bytes, config.separator)
    return fields, taken


def _keys(kind: Kind, field: Mapping[str, str]) -> dict[str, str]:
    return {role: field.get(role, role) for role in ("id", *ROLES[kind])}


def _peek(items: Iterator[Item | None], taken: list[Item], field: Mapping[str, str]) -> Kind:
    mapped = [kind for kind in KINDS if set(field) & set(ROLES[kind])]
    wanted = {kind: [_keys(kind, field)[role] for role in ROLES[kind]] for kind in mapped or KINDS}
    seen = ""
    for item in items:
        if item is None:
            continue
        taken.append(item)
        try:
            value = _load(item, max_bytes=item.size)
        except _BadRecord:
            value = None
        if value is not None:
            for kind, keys in wanted.items():
                if all(key in value for key in keys):
                    return kind
            where = f"{item.origin.source}, record {item.origin.position}"
            seen = seen or f"{where}, has the keys {', '.join(value) or '(none)'}"
        if len(taken) >= PEEK_RECORDS:
            break
    if not seen:  # no object so far: all will be rejected, as any kind
        return next(iter(wanted))
    kinds = "; ".join(f"a {kind} record has {', '.join(keys)}" for kind, keys in wanted.items())
    raise UsageError(
        f"the first records do not have the fields of a record: {seen}; {kinds}. Choose which key "
        f"plays which role with --field ROLE=KEY, for example --field text=KEY"
    )


def parse(item: Item, fields: Fields) -> Record | Rejection:
    """The record in `item`, or its rejection."""
    stem = stem_of(item.origin.source)
    try:
        value = _load(item, fields.max_bytes)
        texts = [_text(value, fields.keys[role]) for role in ROLES[fields.kind]]
        if fields.kind == "contrast":
            prompt, *ends = texts
            texts = [prompt, *(prompt + fields.separator + end for end in ends)]
        carried = tuple(_carried(value, name, kind, stem) for name, kind in fields.carry.items())
        return Record(
            item.origin,
            item.raw,
            _id(value, fields.keys["id"], item, stem),
            carried,
            tuple(texts),
        )
    except _BadRecord as reason:
        return Rejection(item.origin, str(reason), item.raw, item.size)


def _load(item: Item, max_bytes: int) -> dict[str, Any]:
    if item.problem is not None:
        raise _BadRecord(item.problem)
    if item.size > max_bytes:
        raise _BadRecord(f"longer than max_record_bytes = {max_bytes:,}: {item.size:,} bytes")
    try:
        value = orjson.loads(item.raw)
    except orjson.JSONDecodeError as error:
        raise _BadRecord(_why_malformed(item.raw, error)) from None
    if not isinstance(value, dict):
        raise _BadRecord(f"{TYPE_NAMES[type(value)]}, not an object")
    return value


def _why_malformed(raw: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as invalid:
        return f"invalid UTF-8: {invalid.reason} at byte {invalid.start} of the record"
    return f"malformed JSON: {error.msg} at character {error.pos} of the record"


def _text(value: dict[str, Any], key: str) -> str:
    if key not in value:
        raise _BadRecord(f"field {key!r} is missing")
    text = value[key]
    if not isinstance(text, str):
        raise _BadRecord(f"field {key!r} is {TYPE_NAMES[type(text)]}, not a string")
    if not text.strip():
        raise _BadRecord(f"field {key!r} is empty")
    if "\0" in text:
        raise _BadRecord(f"field {key!r} contains a NUL character")
    return text


def _id(value: dict[str, Any], key: str, item: Item, stem: str) -> str:
    found = value.get(key)
    if found is None:
        return f"{stem}:{item.origin.position}"
    if not isinstance(found, str | int | float) or isinstance(found, bool):
        raise _BadRecord(f"field {key!r} is {TYPE_NAMES[type(found)]}, not a string or a number")
    return str(found)


def _carried(value: dict[str, Any], name: str, kind: CarryType, stem: str) -> Carried:
    found: Carried = value.get(name)
    if name == "domain" and kind == "string" and not isinstance(found, str):
        # carried without being declared, so it causes no rejection
        return str(found) if isinstance(found, int | float) else stem
    if found is None:
        return None
    if not isinstance(found, ACCEPTED[kind]) or (isinstance(found, bool) and kind != "bool"):
        raise _BadRecord(f"field {name!r} is {TYPE_NAMES[type(found)]}, declared as {kind}")
    if kind == "int64" and not -(2**63) <= int(found) < 2**63:
        raise _BadRecord(f"field {name!r} is too large for int64: {found}")
    return float(found) if kind == "float64" else found
