"""A hash of every byte in a model's or SAE's directory that decides numbers.

Weights are many GB, so a file's hash is kept in the user's cache directory and taken from there as
long as the file is the same: its path, size, inode, and times of modification and change.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson
from platformdirs import user_cache_path
from pydantic import TypeAdapter, ValidationError

SUFFIXES = frozenset({
    ".safetensors", ".bin", ".pt", ".pth", ".npz", ".h5", ".msgpack", ".gguf",  # weights
    ".json", ".yaml", ".yml", ".py",  # configurations, and code that comes with a model
    ".model", ".txt", ".tiktoken", ".vocab",  # tokenizers
})  # fmt: skip
TRAINING = frozenset({
    "optimizer.pt", "scheduler.pt", "scaler.pt", "training_args.bin", "trainer_state.json",
    "activations_store_state.safetensors", "trainer_state.pt",
})  # fmt: skip
"""Files that trainers leave beside a checkpoint and nobody reads to run it."""
THREADS = 4
"""Files hashed at once: hashing is slower than a good disk, and lets other threads run."""
FRESH_NS = 2 * 10**9
"""A file changed so recently may change again without its times showing it."""


@dataclass(frozen=True, slots=True)
class Known:
    """A file as it was when it was hashed."""

    size: int
    inode: int
    modified_ns: int
    changed_ns: int
    sha256: str


_CACHE = TypeAdapter(dict[str, Known])


def content_hash(directory: str | Path) -> str | None:
    """SHA-256 over names and contents of the files directly in `directory` that decide numbers.
    None where `directory` is none: what comes from the hub is known by its revision.

    :raises OSError: a file cannot be read.
    """
    folder = Path(directory)
    if not folder.is_dir():
        return None
    files = [file for file in sorted(folder.iterdir()) if _decides(file)]
    kept = _read_cache()
    with ThreadPoolExecutor(THREADS, "hashing") as pool:
        found = list(pool.map(partial(_hashed, kept), files))
    settled = time.time_ns() - FRESH_NS
    new = {
        str(file.resolve()): known
        for file, known in zip(files, found, strict=True)
        if known.changed_ns < settled and kept.get(str(file.resolve())) != known
    }
    if new:
        _write_cache(_read_cache() | new)  # another process may have written meanwhile
    whole = hashlib.sha256()
    for file, known in zip(files, found, strict=True):
        whole.update(f"{file.name} {known.sha256}\n".encode())
    return whole.hexdigest()


def _decides(file: Path) -> bool:
    is_kept = file.suffix in SUFFIXES and not file.name.startswith((".", "rng_state"))
    return is_kept and file.name not in TRAINING and file.is_file()


def _hashed(kept: Mapping[str, Known], file: Path) -> Known:
    known, now = kept.get(str(file.resolve())), file.stat()
    if known is not None and _known(now, known.sha256) == known:
        return known
    with file.open("rb") as content:
        return _known(now, hashlib.file_digest(content, "sha256").hexdigest())


def _known(now: os.stat_result, sha256: str) -> Known:
    return Known(now.st_size, now.st_ino, now.st_mtime_ns, now.st_ctime_ns, sha256)


def _cache_file() -> Path:
    return user_cache_path("streamer") / "hashes.json"


def _read_cache() -> dict[str, Known]:
    """What is known; nothing where it cannot be read: then all is hashed again."""
    try:
        return _CACHE.validate_json(_cache_file().read_bytes())
    except (OSError, ValidationError):
        return {}


def _write_cache(known: Mapping[str, Known]) -> None:
    """Replace the cache, if that can be done."""
    file = _cache_file()
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(orjson.dumps(dict(known)))
        temporary.replace(file)
