"""A hash of every byte in a model's or SAE's directory that decides numbers.

Weights are many GB, so a file's hash is kept in the user's cache directory and taken from there as
long as the file is the same: its path, size, inode, and times of modification and change.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson
from platformdirs import user_cache_path
from pydantic import TypeAdapter, ValidationError

from streamer.errors import UsageError

SUFFIXES = frozenset({
    ".safetensors", ".bin", ".pt", ".pth", ".npz", ".h5", ".msgpack", ".gguf",  # weights
    ".yaml", ".yml", ".py",  # configurations, and code that comes with a model
    ".model", ".tiktoken", ".vocab",  # tokenizers
})  # fmt: skip
NAMES = frozenset({
    "config.json", "cfg.json", "params.json", "hyperparams.json", "adapter_config.json",
    "quantize_config.json", "quantization_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "tekken.json", "merges.txt",
    "vocab.txt",
})  # fmt: skip
"""The same of kinds of which others decide nothing: licences, notes, results."""
TRAINING = frozenset({
    "optimizer.pt", "scheduler.pt", "scaler.pt", "training_args.bin", "trainer_state.json",
    "activations_store_state.safetensors", "trainer_state.pt",
})  # fmt: skip
"""Files that trainers leave beside a checkpoint and nobody reads to run it."""
BLOCK_BYTES = 2**23
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


@contextlib.contextmanager
def hashing(directories: Sequence[str]) -> Iterator[Callable[[], list[str | None]]]:
    """While it is entered, the `content_hash` of each directory is found, beside what reads the
    same files anyway; what is entered with waits for them. Broken off with what is inside.

    :raises UsageError: when they are waited for: a file cannot be read.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(1, "hashing") as beside:
        found = [beside.submit(content_hash, one, stopped) for one in directories]

        def wait() -> list[str | None]:
            try:
                return [one.result() for one in found]
            except OSError as error:
                raise UsageError(f"cannot read {error.filename}: {error.strerror}.") from None

        try:
            yield wait
        except BaseException:
            stopped.set()
            raise


def content_hash(directory: str | Path, stopped: threading.Event | None = None) -> str | None:
    """SHA-256 over names and contents of the files directly in `directory` that decide numbers.
    None where `directory` is none: what comes from the hub is known by its revision; and once
    `stopped` is set.

    :raises OSError: a file cannot be read.
    """
    stopped = stopped or threading.Event()
    folder = Path(directory)
    if not folder.is_dir():
        return None
    files = [file for file in sorted(folder.iterdir()) if _decides(file)]
    kept = _read_cache()
    with ThreadPoolExecutor(THREADS, "hashing") as pool:
        found = list(pool.map(partial(_hashed, kept, stopped), files))
    if stopped.is_set():
        return None
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
    is_kept |= file.name in NAMES or file.name.endswith(".index.json")
    return is_kept and file.name not in TRAINING and file.is_file()


def _hashed(kept: Mapping[str, Known], stopped: threading.Event, file: Path) -> Known:
    known, now = kept.get(str(file.resolve())), file.stat()
    if known is not None and _known(now, known.sha256) == known:
        return known
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while not stopped.is_set() and (block := content.read(BLOCK_BYTES)):
            digest.update(block)
    return _known(now, digest.hexdigest())


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
