"""RUN/log.jsonl: what happened, when. A JSON object a line; full files are log.jsonl.1, .2, …"""

import contextlib
import logging
import os
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, BinaryIO

import orjson

FILE_BYTES = 16 * 2**20
OLD_FILES = 5


class RunLog(RotatingFileHandler):
    """The log of one run, appended to by each of its sessions, from any thread.

    A handler of `logging` for its rotation only: no logger knows of it.

    :raises OSError: the file cannot be opened. Nothing is raised after that.
    """

    def __init__(
        self, path: Path, file_bytes: int = FILE_BYTES, old_files: int = OLD_FILES
    ) -> None:
        super().__init__(path, maxBytes=file_bytes, backupCount=old_files, encoding="utf-8")
        self._is_closed = False

    def write(self, event: str, entries: dict[str, Any] | None = None) -> None:
        """Append a line. One that cannot be written is left out: a log must not end a run."""
        self.acquire()  # so that times are in order
        try:
            if not self._is_closed:
                self.emit(logging.makeLogRecord({"msg": _line(event, entries or {})}))
        finally:
            self.release()

    def close(self) -> None:
        """Part of `logging.Handler`; what is written after that is left out."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        """Part of `logging.Handler`: leave the line out, and open the file anew for the next."""
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()

    def _open(self) -> TextIOWrapper:
        """What a kill or a full disk has left of a last line is cut off."""
        path = Path(self.baseFilename)
        if path.exists():
            with path.open("r+b") as file:
                if file.seek(0, os.SEEK_END) and _last_byte(file) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        return super()._open()


def _line(event: str, entries: dict[str, Any]) -> str:
    line = {"time": now(), "event": event, **entries}
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError as error:  # such as half a surrogate pair in a file's name
        told = {"time": line["time"], "event": event, "entries": ascii(entries)}
        return orjson.dumps(told | {"as_text_because": str(error)}).decode()


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read()


def now() -> str:
    """This moment as the log and the manifest tell it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
