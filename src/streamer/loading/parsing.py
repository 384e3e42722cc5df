"""What an item says: its fields are found by role and checked; a record, or a rejection."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from streamer.config import ROLES, CarryType, Kind, RunConfig
from streamer.errors import UsageError
from streamer.loading.sources import Source
from streamer.records import Carried, Item, Record, Rejection

PEEK_RECORDS = 100
"""Records looked at, at most, to tell what kind they are."""
KINDS: tuple[Kind, ...] = ("contrast", "text")
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


class _BadRecord(Exception):
    """Why a record is rejected."""


def settle_fields(config: RunConfig, items: Iterator[Item]) -> tuple[Fields, list[Item]]:
    """The fields to read, and the items that were taken from `items` to find out.

    The kind is the configured one, or the one whose roles are mapped, or that of the first object.

    :raises UsageError: none of the first objects has the fields of either kind.
    """
    mapped = [kind for kind in KINDS if set(config.field) & set(ROLES[kind])]
    taken: list[Item] = []
    kind = config.kind if config.kind != "auto" else next(iter(mapped), None)
    if kind is None:
        kind = _peek(items, taken)
    keys = {role: config.field.get(role, role) for role in ("id", *ROLES[kind])}
    return Fields(kind, keys, config.carry, config.max_record_bytes), taken


def _peek(items: Iterator[Item], taken: list[Item]) -> Kind:
    seen = ""
    for item in itertools.islice(items, PEEK_RECORDS):
        taken.append(item)
        try:
            value = _load(item, max_bytes=item.size)
        except _BadRecord:
            continue
        for kind in KINDS:
            if all(role in value for role in ROLES[kind]):
                return kind
        seen = seen or (
            f"{item.origin.source}, record {item.origin.position}, has the keys "
            f"{', '.join(value) or '(none)'}"
        )
    if not seen:  # nothing but rubbish so far: all of it will be rejected as either kind
        return KINDS[0]
    raise UsageError(
        f"the first records have the fields of no kind: {seen}; a contrast record has "
        f"{', '.join(ROLES['contrast'])}, a text record has {', '.join(ROLES['text'])}. Say which "
        f"key plays which role, for example --field text=KEY"
    )


def parse(item: Item, source: Source, fields: Fields) -> Record | Rejection:
    """The record that `item` holds, or why it holds none."""
    try:
        value = _load(item, fields.max_bytes)
        texts = [_text(value, fields.keys[role]) for role in ROLES[fields.kind]]
        if fields.kind == "contrast":
            prompt, *ends = texts
            texts = [prompt, *(f"{prompt} {end}" for end in ends)]
        carried = tuple(_carried(value, name, kind, source) for name, kind in fields.carry.items())
        return Record(
            item.origin,
            item.raw,
            _id(value, fields.keys["id"], item, source),
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
        raise _BadRecord(f"malformed JSON: {error}") from None
    if not isinstance(value, dict):
        raise _BadRecord(f"{TYPE_NAMES[type(value)]}, not an object")
    return value


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


def _id(value: dict[str, Any], key: str, item: Item, source: Source) -> str:
    found = value.get(key)
    if found is None:
        return f"{source.stem}:{item.origin.position}"
    if not isinstance(found, str | int) or isinstance(found, bool):
        raise _BadRecord(f"field {key!r} is {TYPE_NAMES[type(found)]}, not a string or an integer")
    return str(found)


def _carried(value: dict[str, Any], name: str, kind: CarryType, source: Source) -> Carried:
    found: Carried = value.get(name)
    if found is None:
        return source.stem if name == "domain" and kind == "string" else None
    if not isinstance(found, ACCEPTED[kind]) or (isinstance(found, bool) and kind != "bool"):
        raise _BadRecord(f"field {name!r} is {TYPE_NAMES[type(found)]}, declared as {kind}")
    if kind == "int64" and not -(2**63) <= int(found) < 2**63:
        raise _BadRecord(f"field {name!r} is too large for int64: {found}")
    return float(found) if kind == "float64" else found
