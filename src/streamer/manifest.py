"""What RUN/manifest.json says: one model, by which it is written and read.

It belongs to the vocabulary, beside the records: `running` fills it in, `writing` keeps it on the
disk, and `results` reads it back, and none of the three may import another for it.

A later version may add keys: each has a default, which it takes in a run that lacks it, and unknown
ones are kept. What cannot be read like that gets a new `format`.
"""

import operator
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from streamer.config import Kind
from streamer.records import InputRange

FORMAT = 1
"""Of the manifests that this version writes. The first ones had no such key: that is 1, too."""
CLOSED = ("finished", "stopped")
"""How runs end in order: all that was computed is in their parts."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run has written. The names are those in its manifest and in the footers of parts."""

    records: int = 0
    """Read, good and bad."""
    rows: int = 0
    """Measured."""
    rejected: int = 0
    truncated: int = 0
    tokens: int = 0
    """Of all passages, as if none were shared."""
    tokens_run: int = 0
    """Shared ones once."""
    reruns_in_float32: int = 0
    out_of_memory_splits: int = 0
    model_errors: int = 0

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """What a manifest or footer says, which need not say all."""
        return cls(**{name: said[name] for name in cls.__slots__ if name in said})

    def __add__(self, other: "Counts") -> "Counts":
        """Of both."""
        return Counts(*map(operator.add, astuple(self), astuple(other)))


class Entry(BaseModel):
    """A part of a manifest. Keys of later versions are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)


class EarlierSession(Entry):
    """One after which the run went on."""

    started: str | None = None
    finished: str | None = None
    status: str = "unknown"
    seconds: float | None = None
    cause: str | None = None
    streamer: str = "?"
    """The version that ran it."""


class ModelEntry(Entry):
    """The model that was run."""

    name: str = ""
    files: str | None = None
    """A hash of a local directory's files."""
    revision: str | None = None
    """The hub's commit."""
    d_model: int | None = None
    n_layers: int | None = None
    context: int | None = None
    forward: str | None = None
    dtype: str | None = None
    autocast: str | None = None
    sharing: str | None = None
    bos: int | None = None


class SaeEntry(Entry):
    """The SAE of a layer."""

    layer: int
    location: str = ""
    architecture: str | None = None
    d_sae: int | None = None
    files: str | None = None
    revision: str | None = None


class Settings(Entry):
    """The configuration. Only what is asked of any run is named here: the rest was judged by the
    version that wrote it, and is by the one that goes on with it."""

    paths: tuple[str, ...] = ()
    limit: int | None = None
    follow: bool = False
    trust_remote_code: bool = False


class Input(Entry):
    """One source, as it was when it was read."""

    name: str
    bytes: int | None = None
    modified: str | None = None
    head: str | None = None
    tail: str | None = None


class Manifest(Entry):
    """The manifest of a run."""

    format: int = FORMAT
    status: str = "unknown"
    """running, finished, stopped or failed; unknown if the manifest cannot be read."""
    started: str | None = None
    finished: str | None = None
    earlier_sessions: tuple[EarlierSession, ...] = ()
    working_directory: str = "."
    """Where its relative paths begin."""
    versions: dict[str, str] = {}
    config: Settings = Settings()
    kind: Kind | None = None
    """What its records were found to be."""
    device: str | None = None
    settings: dict[str, str | int | bool] = {}
    """What was set for the whole process."""
    model: ModelEntry | None = None
    saes: tuple[SaeEntry, ...] = ()
    inputs: tuple[Input, ...] = ()
    range: InputRange = InputRange()
    """The part of the input that it reads."""
    columns: tuple[str, ...] = ()
    """Of the metrics, in the order of the table."""
    counts: Counts | None = None
    """Totals, once the run has ended."""
    seconds: float | None = None
    max_tokens: int | None = None
    """Of a batch, in the end."""
    stage_seconds: dict[str, float] = {}
    cause: str | None = None
    """Why the run broke off, or could not be stopped in order."""

    @property
    def is_closed(self) -> bool:
        """Whether the run ended in order, finished or not."""
        return self.status in CLOSED and self.cause is None

    def session(self) -> EarlierSession:
        """What is kept of a session when the next one begins."""
        return EarlierSession(
            started=self.started,
            finished=self.finished,
            # a session that was killed did not get to say how it ended
            status="killed" if self.status == "running" else self.status,
            seconds=self.seconds,
            cause=self.cause,
            streamer=self.versions.get("streamer", "?"),
        )

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """What `content` says.

        :raises ValueError: it is damaged, which says where; or of a later format.
        """
        said: Any = orjson.loads(content)
        if not isinstance(said, dict) or "status" not in said:
            raise ValueError("it is not the manifest of a run")
        written = said.get("format", FORMAT)
        if not isinstance(written, int) or written > FORMAT:
            raise ValueError(
                f"it has format {written}, and this version reads {FORMAT}: use the streamer that "
                f"wrote it, or a newer one"
            )
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}, found {first['input']!r:.80}") from None

    def updated(self, **entries: Any) -> Self:
        """The same with `entries`.

        :raises ValueError: one is not what it should be.
        """
        return self.model_validate(self.model_dump(exclude_unset=True) | entries)

    def entries(self) -> dict[str, Any]:
        """All that it says, as JSON has it; `format` always."""
        return {"format": self.format, **self.model_dump(mode="json", exclude_unset=True)}

    def content(self) -> bytes:
        """The file."""
        return orjson.dumps(self.entries(), option=orjson.OPT_INDENT_2) + b"\n"
