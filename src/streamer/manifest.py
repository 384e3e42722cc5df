"""RUN/manifest.json: one model, used both to write and to read it.

It is part of the vocabulary, like the records: `running` fills it in, `writing` stores it, and
`results` reads it back, and none of the three may import another for it.

A later version may add keys. Each has a default for runs that lack it, and unknown keys are kept. A
change that this does not cover needs a new `format`.
"""

from collections.abc import Sequence
from typing import Any, Protocol, Self

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from streamer.config import Kind
from streamer.errors import UsageError
from streamer.records import Counts, InputRange

MANIFEST = "manifest.json"
FORMAT = 1
"""The format that this version writes. The earliest manifests lack the key; they are 1, too."""
CLOSED = ("finished", "stopped")
"""Status of runs that ended cleanly: all that was computed is in their parts."""


class Entry(BaseModel):
    """A part of a manifest. Keys of later versions are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)


class EarlierSession(Entry):
    """An earlier session of a run that was resumed."""

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
    """A hash of a local directory's files, of large ones only their ends."""
    content: str | None = None
    """A hash of all of them that decide numbers."""
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
    """The token before every passage; None for no token."""
    bos_token: str | None = None
    """The same in words."""
    tokenizer: tuple[str, ...] = ()
    """The files that make tokens. Earlier versions, which did not record it, asked Hugging Face's
    AutoTokenizer."""
    tokenizer_is_transformers: bool = True
    """Whether AutoTokenizer makes the same ids."""
    vocabulary: int | None = None
    """How many tokens it embeds."""


class SaeEntry(Entry):
    """The SAE of a layer."""

    layer: int
    location: str = ""
    architecture: str | None = None
    d_sae: int | None = None
    files: str | None = None
    content: str | None = None
    revision: str | None = None
    trained_on: str | None = None
    """The model that its metadata name."""
    context_size: int | None = None
    """Most tokens of the texts that it was trained on."""
    centred: bool = False
    """Whether residuals are read less their mean, as it was trained on such."""
    signed: bool = False
    """Whether its features have a sign."""


class Settings(Entry):
    """The configuration. Only the keys that are read from any run are declared here: the others
    were validated by the version that wrote them, and are again by the one that resumes."""

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
    """What its relative paths are relative to."""
    versions: dict[str, str] = {}
    config: Settings = Settings()
    kind: Kind | None = None
    """The kind of its records."""
    device: str | None = None
    settings: dict[str, str | int | bool] = {}
    """Process-wide settings."""
    model: ModelEntry | None = None
    saes: tuple[SaeEntry, ...] = ()
    inputs: tuple[Input, ...] = ()
    notes: tuple[str, ...] = ()
    """What is to be known of how it was measured, as it was said while it ran."""
    range: InputRange = InputRange()
    """The range of the input that the run reads."""
    columns: tuple[str, ...] = ()
    """Names of the metrics, in the order of the leading table."""
    tables: dict[str, tuple[str, ...]] = {}
    """All columns of each table, in order; empty in runs of earlier versions."""
    counts: Counts | None = None
    """Totals, once the run has ended."""
    seconds: float | None = None
    max_tokens: int | None = None
    """Most token positions in a batch, as of the end of the run."""
    stage_seconds: dict[str, float] = {}
    cause: str | None = None
    """Why the run broke off, or could not be stopped cleanly."""

    @property
    def is_closed(self) -> bool:
        """Whether the run ended cleanly, finished or not."""
        return self.status in CLOSED and self.cause is None

    def session(self) -> EarlierSession:
        """The entry that stands for this session once the next one begins."""
        return EarlierSession(
            started=self.started,
            finished=self.finished,
            # a session that was killed could not record how it ended
            status="killed" if self.status == "running" else self.status,
            seconds=self.seconds,
            cause=self.cause,
            streamer=self.versions.get("streamer", "?"),
        )

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """The manifest in `content`.

        :raises ValueError: it is damaged (the message names the key), or of a later format.
        """
        parsed: Any = orjson.loads(content)
        if not isinstance(parsed, dict) or "status" not in parsed:
            raise ValueError("it is not the manifest of a run")
        written = parsed.get("format", FORMAT)
        if not isinstance(written, int) or written > FORMAT:
            raise ValueError(
                f"it has format {written}, and this version reads {FORMAT}: use the streamer that "
                f"wrote it, or a newer one"
            )
        try:
            return cls.model_validate(parsed)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}, found {first['input']!r:.80}") from None

    def updated(self, **entries: Any) -> Self:
        """A copy with `entries` changed.

        :raises ValueError: an entry has the wrong type.
        """
        return self.model_validate(self.model_dump(exclude_unset=True) | entries)

    def entries(self) -> dict[str, Any]:
        """Every entry that was set, as JSON types; always with `format`."""
        return {"format": self.format, **self.model_dump(mode="json", exclude_unset=True)}

    def content(self) -> bytes:
        """The content of the file."""
        return orjson.dumps(self.entries(), option=orjson.OPT_INDENT_2) + b"\n"


class Files(Protocol):
    """What is read of a run: a storage, of which this knows no more."""

    location: str

    def read(self, name: str, /) -> Any:
        """An open file."""

    def list(self, folder: str = "", /) -> Sequence[str]:
        """The names of files."""

    def folders(self, folder: str = "", /) -> Sequence[str]:
        """The names of folders."""


def no_run(files: Files, error: OSError) -> UsageError:
    """What to raise if a file that every run has could not be read from `files`."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        where = error.filename or files.location
        return UsageError(f"cannot read {where}: {error.strerror}. Make it readable.")
    what = "there is nothing"
    if isinstance(error, NotADirectoryError):
        what = "that is no directory"
    elif _holds_something(files):
        what = "that directory has no manifest.json"
    return UsageError(
        f"no run in {files.location}: {what}. A run makes its directory once the model is loaded."
    )


def _holds_something(files: Files) -> bool:
    try:
        return bool(files.list() or files.folders())
    except OSError:  # what may not be listed is there
        return True
