"""From what the user named (files, directories, globs, URLs, standard input) to plain bytes."""

import functools
import io
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import fsspec

from streamer import embedded
from streamer.concurrency.retry import RetryPolicy
from streamer.config import EMBEDDED, STDIN
from streamer.errors import UsageError
from streamer.loading.compressed import codec_of, decompressed
from streamer.loading.retrying import RetryingFile

SUFFIXES = (".json", ".jsonl", ".ndjson")
PACKED = (".gz", ".zst")
READ_BYTES = 64 * 1024
IDLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Source:
    """One input: a file of some file system, or standard input."""

    name: str
    """As the user named it, or as it was found below what they named."""
    path: str
    size: int | None
    """Bytes as stored, possibly compressed; None if only reading can find it."""
    modified: str | None = None
    fs: Any = None

    @property
    def where(self) -> str:
        """Its full path or URL, however it was named."""
        return self.fs.unstrip_protocol(self.path) if self.fs else self.path

    @property
    def is_lines(self) -> bool:
        """Whether it is JSON Lines by its name; otherwise the first byte decides."""
        return any(f".{part}" in SUFFIXES[1:] for part in PurePosixPath(self.name).name.split("."))


@functools.lru_cache(1024)
def stem_of(name: str) -> str:
    """A source's name without directories and suffixes: `facts` for `data/facts.jsonl.gz`."""
    if name == STDIN:
        return "stdin"
    name = PurePosixPath(name).name
    for suffix in (*PACKED, *SUFFIXES):
        name = name.removesuffix(suffix)
    return name


def expand(paths: Sequence[str], unreadable: Callable[[str], None] | None = None) -> list[Source]:
    """All sources that `paths` name, each once, sorted by name.

    A directory stands for every .json, .jsonl and .ndjson file below it (also .gz and .zst).

    :raises UsageError: a path that does not exist or cannot be read, or nothing to read at all.
        If `unreadable` is given, it is called with the reason instead, and the file is left out.
    """
    found: dict[str, Source] = {}
    for path in paths:
        for source in _expand_one(path, unreadable):
            found.setdefault(source.where, source)
    return sorted(found.values(), key=lambda source: source.name)


def _expand_one(path: str, unreadable: Callable[[str], None] | None) -> Iterator[Source]:
    if path == EMBEDDED:
        path = str(embedded.RECORDS)
    if path == STDIN:
        yield Source(STDIN, STDIN, None)
        return
    try:
        fs, root = fsspec.core.url_to_fs(path)
        names = _files(fs, root)
        infos = [fs.info(name) for name in names]
    except Exception as error:  # every file system has errors of its own
        raise UsageError(f"cannot read {path}: {error}") from None
    if not names:
        raise UsageError(
            f"nothing to read at {path}: no such file, or a directory or pattern without "
            f"{', '.join(SUFFIXES)} files (also {', '.join(PACKED)}). Check the path."
        )
    for name, info in zip(names, infos, strict=True):
        shown = path.rstrip("/") + name.removeprefix(root) if name.startswith(root) else name
        if "file" in fs.protocol and not _readable(name):
            problem = f"cannot read {shown}: permission denied. Check its mode and owner."
            if unreadable is None:
                raise UsageError(problem)
            unreadable(problem)
            continue
        yield Source(shown, name, info.get("size"), str(info.get("mtime") or "") or None, fs)


def _files(fs: Any, root: str) -> list[str]:
    if fs.isdir(root):
        names = set(fs.find(root))
        # a run directory is output, though it has JSON files
        runs = [name.removesuffix("manifest.json") for name in names
                if name.endswith("/manifest.json")
                and name.removesuffix("manifest.json") + "log.jsonl" in names]  # fmt: skip
        return sorted(
            name
            for name in names
            if _is_input(name.removeprefix(root)) and not name.startswith(tuple(runs))
        )
    if fs.exists(root):
        return [root]
    matches = (name for name in fs.glob(root) if fs.isfile(name))
    return sorted(name for name in matches if not PurePosixPath(name).name.startswith("."))


def _is_input(relative: str) -> bool:
    parts = PurePosixPath(relative.lstrip("/")).parts
    name = relative
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    return name.endswith(SUFFIXES) and not any(part.startswith(".") for part in parts)


def _readable(path: str) -> bool:
    if not Path(path).is_file():
        return True  # a pipe: opening it would take from it
    try:
        with Path(path).open("rb"):
            return True
    except OSError:
        return False


def read_bytes(
    source: Source,
    on_read: Callable[[int], None],
    begin: int = 0,
    *,
    retries: RetryPolicy | None = None,
) -> Iterator[bytes]:
    """The decompressed content of `source` from byte `begin` on, in pieces. `on_read` is
    called with the number of raw bytes read.

    Compressed sources and pipes are read up to there; in others, reading starts there.

    An empty piece means that nothing has come for a while, or that the run is being stopped.

    :raises DamagedSource: after the last good piece, where compressed data are cut or corrupt.
    :raises RunFault: the file system could not open or read it, though tried with `retries`.
    """
    once = source.name == STDIN
    with RetryingFile(
        source.name, lambda: open_source(source), retries or RetryPolicy(), once
    ) as file:
        raw = _raw_pieces(file, on_read)
        first = b""
        for first in raw:
            if first:
                break
            yield first
        codec = codec_of(first)
        pieces = _chain(first, raw)
        if codec:
            pieces = decompressed(pieces, codec)
        elif begin and file.is_seekable:
            file.seek(begin)
            on_read(begin - len(first))
            pieces, begin = raw, 0
        yield from behind(pieces, begin)


def open_source(source: Source) -> BinaryIO:
    """Its raw bytes, possibly compressed.

    :raises OSError: it cannot be opened.
    """
    if source.name == STDIN:
        return cast(BinaryIO, open(sys.stdin.fileno(), "rb", closefd=False, buffering=0))
    if "file" in source.fs.protocol:
        if not Path(source.path).is_fifo():
            return Path(source.path).open("rb", buffering=0)
        handle = os.open(source.path, os.O_RDONLY | os.O_NONBLOCK)  # else it waits for a writer
        os.set_blocking(handle, True)
        return cast(BinaryIO, io.FileIO(handle, "rb"))
    return cast(BinaryIO, source.fs.open(source.path, "rb"))


def _raw_pieces(file: RetryingFile, on_read: Callable[[int], None]) -> Iterator[bytes]:
    """What `file` holds; from a pipe also an empty piece whenever nothing comes for a while."""
    while True:
        while file.waits and not select.select([file], [], [], IDLE_SECONDS)[0]:
            on_read(0)
            yield b""
        piece = file.read(READ_BYTES)
        if piece is None:  # stopped
            yield b""
            continue
        if not piece:
            return
        on_read(len(piece))
        yield piece


def behind(pieces: Iterator[bytes], begin: int) -> Iterator[bytes]:
    """`pieces` without their first `begin` bytes, each of which becomes an empty piece, so that a
    signal is handled in between."""
    for piece in pieces:
        rest = piece[begin:]
        begin -= len(piece) - len(rest)
        yield rest


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest
