"""RUN/status.json: a sign of life with all that the display shows, for who looks from outside.

The file is replaced as a whole every few seconds, and a last time at the end of the run.
"""

import contextlib
import dataclasses
import os
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import orjson
from pydantic import TypeAdapter, ValidationError

from streamer.errors import UsageError
from streamer.monitoring.snapshot import Snapshot

NAME = "status.json"
State: TypeAlias = Literal[
    "loading", "running", "paused", "stopping", "finished", "stopped", "failed"
]
"""loading: it will go on once its model is there; paused: it waits for some trouble to pass;
stopping: it finishes what is in flight. The last three are the ends that a run can come to."""
RETRIES = 5
RETRY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Sign:
    """Whose the status is, and when it was written."""

    heartbeat: datetime
    status: State
    title: str
    pid: int
    host: str

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.status in ("finished", "stopped", "failed")


class StatusFile:
    """Written by the run."""

    def __init__(self, directory: Path, title: str) -> None:
        self._path = directory / NAME
        self._temporary = directory / f"{NAME}.tmp"
        self._title = _encodable(title)

    def write(self, status: State, now: Snapshot, note: str | None = None) -> None:
        """Replace the file. Where that fails the run goes on, and the file grows old."""
        sign = Sign(datetime.now(UTC), status, self._title, os.getpid(), socket.gethostname())
        document = dataclasses.asdict(sign) | dataclasses.asdict(now)
        note = note or now.note
        document["note"] = note and _encodable(note)
        content = orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"
        try:
            self._temporary.write_bytes(content)
            self._temporary.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._write_over(content)

    def _write_over(self, content: bytes) -> None:
        """Write into the blocks that the file has: a full disk still takes that, and it is then
        that people look. A reader may meet half of it, and reads again."""
        with self._path.open("r+b", buffering=0) as file:
            file.write(content)
            file.truncate(len(content))


def read_status(directory: Path) -> tuple[Sign, Snapshot]:
    """What the run in `directory` last said of itself.

    :raises UsageError: there is no run, it has not said anything, or not anything readable.
    """
    path = directory / NAME
    for attempt in range(RETRIES):
        try:
            content = path.read_bytes()
            return _SIGN.validate_json(content), _SNAPSHOT.validate_json(content)
        except OSError as error:
            raise UsageError(_why_not(directory, error)) from None
        except ValidationError as error:
            if attempt == RETRIES - 1:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or NAME
                raise UsageError(f"{path} is damaged: {where}: {first['msg']}") from None
            time.sleep(RETRY_SECONDS)
    raise AssertionError("unreachable")


def _why_not(directory: Path, error: OSError) -> str:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"cannot read {directory / NAME}: {error.strerror}"
    if (directory / "manifest.json").exists():
        return (
            f"{directory} is a run without {NAME}: it was not written by this version of streamer, "
            f"or the file was removed. See {directory / 'manifest.json'} for what became of it."
        )
    what = "a file" if directory.is_file() else "another directory" if directory.exists() else None
    return (
        f"no run in {directory}: {f'that is {what}' if what else 'there is nothing'}. A run makes "
        f"its directory once the model is loaded."
    )


def _encodable(text: str) -> str:
    """Names of files need not be Unicode; a JSON file is."""
    return text.encode("utf-8", "backslashreplace").decode()


_SIGN, _SNAPSHOT = TypeAdapter(Sign), TypeAdapter(Snapshot)
