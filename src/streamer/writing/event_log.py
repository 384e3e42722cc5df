"""RUN/log.jsonl: what happened, when. A JSON object a line; full files are log.jsonl.1, .2, …"""

import contextlib
import logging
import os
import threading
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, BinaryIO

import orjson

FILE_BYTES = 16 * 2**20
OLD_FILES = 5


class EventLog:
    """The log of one session of a run. It is made before anything else, so that every part of the
    run gets it when it is made; until `open` gives it a file, it holds the events in memory.

    All methods may be called from any thread.
    """

    def __init__(self, file_bytes: int = FILE_BYTES, old_files: int = OLD_FILES) -> None:
        self._file_bytes = file_bytes
        self._old_files = old_files
        self._held: list[str] = []
        self._file: LogFile | None = None
        self._is_closed = False
        self._lock = threading.Lock()

    def open(self, path: Path) -> None:
        """Append to the file `path` from now on, beginning with the events held so far.

        :raises OSError: the file cannot be opened.
        """
        with self._lock:
            self._file = LogFile(path, self._file_bytes, self._old_files)
            for line in self._held:
                self._file.append(line)
            self._held.clear()

    def write(self, event: str, entries: dict[str, Any] | None = None) -> None:
        """Append a line. It is left out if it cannot be written, or after `close`: a log must not
        end a run."""
        with self._lock:  # around the clock, too, so that times are in order
            line = _line(event, entries or {})
            if self._file is not None:
                self._file.append(line)
            elif not self._is_closed:
                self._held.append(line)

    def close(self) -> None:
        """Close the file, if there is one."""
        with self._lock:
            file, self._file = self._file, None
            self._is_closed = True
            if file is not None:
                file.close()


class LogFile(RotatingFileHandler):
    """A file of lines that rotates. It is a handler of `logging` only to have its rotation; no
    logger writes to it.

    :raises OSError: the file cannot be opened. Nothing is raised after that.
    """

    def __init__(self, path: Path, file_bytes: int, old_files: int) -> None:
        super().__init__(path, maxBytes=file_bytes, backupCount=old_files, encoding="utf-8")

    def append(self, line: str) -> None:
        """Append `line`, or leave it out if it cannot be written."""
        self.emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Part of `logging.Handler`."""
        with contextlib.suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        """Part of `logging.Handler`: leave the line out, and open the file anew for the next."""
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()

    def _open(self) -> TextIOWrapper:
        """The file, without the half of a last line that a kill or a full disk may have left."""
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
        plain = {"time": line["time"], "event": event, "entries": ascii(entries)}
        return orjson.dumps(plain | {"as_text_because": str(error)}).decode()


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read()


def now() -> str:
    """This moment, as it is written in the log and the manifest."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
