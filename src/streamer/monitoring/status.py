"""RUN/status.json: the run's state and all that its display shows, also for `streamer watch`.

The file is replaced as a whole every few seconds, and a last time at the end of the run.
"""

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import orjson
from pydantic import TypeAdapter, ValidationError

from streamer.errors import UsageError
from streamer.manifest import MANIFEST, Files, no_run
from streamer.monitoring.snapshot import Snapshot

NAME = "status.json"
State: TypeAlias = Literal[
    "loading", "running", "paused", "stopping", "finished", "stopped", "failed"
]
"""loading: a resumed run loads its model; paused: it waits for a disk or a file system;
stopping: it was stopped and finishes what is in flight. The last three are the ends of a run."""
RETRIES = 5
RETRY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Sign:
    """The state of a run, who wrote it, and when."""

    heartbeat: datetime
    status: State
    title: str
    pid: int
    host: str

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.status in ("finished", "stopped", "failed")


class StatusFile:
    """Writes the file, for the run."""

    def __init__(self, post: Callable[[bytes], object], title: str) -> None:
        """`post` replaces the file's content."""
        self._post = post
        self._title = _encodable(title)

    def write(self, status: State, now: Snapshot, note: str | None = None) -> None:
        """Replace the file. A failure is ignored: the run goes on, and the heartbeat grows old."""
        sign = Sign(datetime.now(UTC), status, self._title, os.getpid(), socket.gethostname())
        document = dataclasses.asdict(sign) | dataclasses.asdict(now)
        note = note or now.note
        document["note"] = note and _encodable(note)
        content = orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"
        with contextlib.suppress(OSError):
            self._post(content)


def read_status(files: Files) -> tuple[Sign, Snapshot]:
    """The last status that a run wrote among its `files`.

    :raises UsageError: there is no run, or no status, or it is damaged.
    """
    for attempt in range(RETRIES):
        try:
            with files.read(NAME) as file:
                content = file.read()
            return _SIGN.validate_json(content), _SNAPSHOT.validate_json(content)
        except OSError as error:
            raise _unread(files, error) from None
        except ValidationError as error:
            if attempt == RETRIES - 1:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or NAME
                raise UsageError(
                    f"{files.location}/{NAME} is damaged: {where}: {first['msg']}"
                ) from None
            time.sleep(RETRY_SECONDS)
    raise AssertionError("unreachable")


def _unread(files: Files, error: OSError) -> UsageError:
    if isinstance(error, FileNotFoundError) and _is_run(files):
        return UsageError(
            f"{files.location} is a run without {NAME}: it was not written by this version of "
            f"streamer, or the file was removed. See {files.location}/{MANIFEST} for what became "
            f"of it."
        )
    return no_run(files, error)


def _is_run(files: Files) -> bool:
    try:
        files.read(MANIFEST).close()
    except OSError:
        return False
    return True


def _encodable(text: str) -> str:
    """`text` without lone surrogates: file names may have them, JSON may not."""
    return text.encode("utf-8", "backslashreplace").decode()


_SIGN, _SNAPSHOT = TypeAdapter(Sign), TypeAdapter(Snapshot)
