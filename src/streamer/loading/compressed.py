"""The content of gzip and zstd streams, a little at a time."""

import zlib
from collections.abc import Iterator
from typing import Any

import zstandard

MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
FED_BYTES = 256
"""Bytes fed to a decompressor at once: they may expand some thirty thousand times."""
PIECE_BYTES = 64 * 1024
"""Decompressed bytes are passed on when there are this many."""


class DamagedSource(Exception):
    """The compressed data end too early or are corrupt. What was decompressed before is good."""


def codec_of(first: bytes) -> str | None:
    """Which compression a source has that begins with `first`; None if it has none."""
    return next((name for magic, name in MAGIC.items() if first.startswith(magic)), None)


def decompressed(pieces: Iterator[bytes], codec: str) -> Iterator[bytes]:
    """The content of one or more compressed streams after one another, as gzip and zstd allow. An
    empty piece is passed on.

    :raises DamagedSource: after the last good piece, where they are cut or corrupt.
    """

    def fresh() -> Any:
        if codec == "gzip":
            return zlib.decompressobj(wbits=31)
        return zstandard.ZstdDecompressor().decompressobj()

    stream = fresh()
    begun = False
    made: list[bytes] = []
    for piece in pieces:
        if not piece:
            yield piece
        for begin in range(0, len(piece), FED_BYTES):
            rest = piece[begin : begin + FED_BYTES]
            while rest and not (stream.eof and not rest.strip(b"\0")):  # zeros may follow the end
                if stream.eof:
                    stream, begun = fresh(), False
                try:
                    made.append(stream.decompress(rest))
                except (zlib.error, zstandard.ZstdError) as error:
                    yield from _joined(made)
                    raise DamagedSource(f"corrupt {codec} data ({error})") from None
                begun = True
                rest = stream.unused_data if stream.eof else b""
            if sum(map(len, made)) >= PIECE_BYTES:
                yield from _joined(made)
                made = []
    yield from _joined(made)
    if begun and not stream.eof:
        raise DamagedSource(f"truncated {codec} data")


def _joined(made: list[bytes]) -> Iterator[bytes]:
    if any(made):  # an empty piece would mean that the input is idle
        yield b"".join(made)
