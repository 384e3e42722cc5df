"""Identifies an input, so that a resumed run reads what it began with."""

import hashlib
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

from streamer.concurrency.retry import RetryPolicy
from streamer.loading.retrying import RetryingFile
from streamer.loading.sources import Source, open_source

BLOCK_BYTES = 64 * 1024


def identity(source: Source, retry: RetryPolicy) -> dict[str, Any]:
    """Name, size, modification time, and a hash of the first and of the last block; None for what
    only reading could find, as of a pipe.

    :raises RunFault: it cannot be read, even with retries.
    """
    known: dict[str, Any] = {
        "name": source.name,
        "bytes": source.size,
        "modified": source.modified,
        "head": None,
        "tail": None,
    }
    if source.fs is None or source.size is None or _is_special(source):
        return known
    with RetryingFile(source.name, lambda: open_source(source), retry) as file:
        known["head"] = hash_of(file.read(BLOCK_BYTES) or b"")
        file.seek(max(0, source.size - BLOCK_BYTES))
        known["tail"] = hash_of(file.read(BLOCK_BYTES) or b"")
    return known


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In words, how an input has changed."""
    words = {"bytes": "size", "modified": "time of modification", "head": "first", "tail": "last"}
    found = []
    for key, word in words.items():
        if before.get(key) != now[key]:
            if key in ("head", "tail"):
                found.append(f"its {word} {BLOCK_BYTES // 1024} KiB are others")
            else:
                found.append(f"its {word} was {_shown(before.get(key))} and is {_shown(now[key])}")
    return found


def _shown(value: Any) -> str:
    """A size unchanged, a time readable."""
    try:
        when = datetime.fromtimestamp(float(value)) if isinstance(value, str) else None
    except ValueError:  # not every file system gives seconds
        when = None
    return f"{when} (@{value})" if when else f"{value}"


def _is_special(source: Source) -> bool:
    """Whether opening it would consume content, or wait."""
    if "file" not in source.fs.protocol:
        return False
    return not stat.S_ISREG(Path(source.path).stat().st_mode)


def hash_of(block: bytes) -> str:
    """What an input's first or last bytes are known by."""
    return hashlib.blake2b(block, digest_size=16).hexdigest()
