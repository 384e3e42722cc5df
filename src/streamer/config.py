"""The configuration of a run. One name for one thing: an attribute here, a key in a TOML file and
a flag of `streamer run` are called the same (`batch_size`, `batch_size`, `--batch-size`).

Flags override the file, the file overrides these defaults. Nothing here imports torch.
"""

import difflib
import itertools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from streamer.errors import UsageError

Kind: TypeAlias = Literal["contrast", "text"]

STDIN = "-"
EMBEDDED = "embedded"
"""Names the model, the SAEs or the records that ship in the package."""

KINDS: dict[Kind, dict[str, str]] = {
    "contrast": {"prompt": "prompt", "fact": "fact", "hallucination": "hall"},
    "text": {"text": "text"},
}
"""The kinds of record. For each, the roles that a JSON field can play, and the passage made from
each, in column order; `fact` and `hall` follow the prompt and the separator."""
ROLES: dict[Kind, tuple[str, ...]] = {kind: tuple(parts) for kind, parts in KINDS.items()}
"""The roles that a JSON field can play in each kind of record."""

CarryType: TypeAlias = Literal["string", "int64", "float64", "bool"]
Progress: TypeAlias = Literal["auto", "rich", "lines", "none"]
Sharing: TypeAlias = Literal["trie", "prefix", "none"]
Forward: TypeAlias = Literal["auto", "native", "bridge"]
NoiseScale: TypeAlias = Literal["absolute", "relative"]
Positive: TypeAlias = Annotated[int, Field(ge=1)]


class RunConfig(BaseModel):
    """Everything that decides what a run reads, computes and writes."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    paths: tuple[str, ...] = (EMBEDDED,)
    """What to read: files, directories, globs, URLs, or - for standard input."""
    out: Path | None = None
    """The run directory to make. Left out: runs/ and the time at which the run started."""

    kind: Literal["auto", Kind] = "auto"
    """contrast: {prompt, fact, hallucination}; text: {text}; auto: what the first record has."""
    field: dict[str, str] = {}
    """Which JSON key plays which role: id, prompt, fact, hallucination, text."""
    carry: dict[str, CarryType] = {}
    """JSON fields to copy into the output, with their types (string, int64, float64, bool). domain
    is always among them, and where a record has none, it is the file's stem."""
    separator: str = " "
    """What stands between the prompt of a contrast record and its fact or hallucination; "" puts
    them together as they are."""
    limit: Positive | None = None
    """Stop after this many input records."""
    too_long: Literal["reject", "truncate"] = "reject"
    """What to do with text longer than the model's context. Truncating changes what is measured,
    so it has to be requested."""
    follow: bool = False
    """Keep reading lines added to files and files added to directories, until stopped."""
    max_record_bytes: Positive = 16 * 2**20
    """A longer record is rejected unparsed: at about 4 bytes a token no context holds it."""

    model: str = EMBEDDED
    """A hub name or a local Hugging Face directory."""
    revision: str | None = None
    """The branch, tag or commit of a hub model. Left out: its main branch."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] = (1, 3, 5)
    """The layers to read, in increasing order. Per-record metrics use the first three."""
    hook: str = "blocks.{layer}.hook_resid_post"
    """TransformerLens' name of the activation to read at each layer."""
    sae: str = EMBEDDED
    """A directory or a SAELens release/sae_id, with {layer} in it."""
    sae_revision: str | None = None
    """The same for the SAEs' hub repository."""
    allow_other_model: bool = False
    """Measure SAEs of another model than they were trained on, such as a base model's on its
    fine-tune. Width and hook must be theirs, and the run notes it."""
    prepend_bos: bool | None = None
    """Whether passages begin with BOS. Left out: as in the SAEs' metadata."""
    bos_token: str | None = None
    """The token that stands for BOS, where the tokenizer names none or another was trained with:
    TransformerLens takes the end-of-text token for the models of some SAEs."""
    trust_remote_code: bool = False
    """Let a model run its own code and load pickled weights."""

    device: str = "auto"
    """auto (cuda, else cpu, on a Mac too), cpu, cuda, cuda:0, mps (tried on no Mac yet)."""
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    """Format of the model's weights. The SAEs are float32, or float64 with float64 weights; float64
    is for checking numbers: it is slow, very slow on a GPU."""
    fp16: bool = False
    """Run the model's matrix products in float16 (cuda, mps); on a CPU in bfloat16."""
    bf16: bool = False
    """Run the model's matrix products in bfloat16."""
    forward: Forward = "auto"
    """native: the Hugging Face module; bridge: TransformerLens' bridge; auto: native where the
    architecture and the hook allow it."""
    sharing: Sharing = "trie"
    """Which tokens run only once. trie: every beginning that passages share, if the architecture
    passes the check at load, else prefix: passages that begin or equal another; none: no token."""
    batch_size: Positive | None = None
    """Most records in a batch. Left out: as many as its token positions allow."""
    max_tokens: Positive | None = None
    """Most token positions in a batch, padding included. The actual number is found while running:
    as many as make it faster and fit the memory."""
    deterministic: bool = False
    """Fix batches and algorithms, so that the same run twice writes the same bytes. Batches are not
    cut by the free memory then: where they may not fit it, the run is refused."""
    overlap: bool = True
    """Read, compute and write at the same time. Without, one after another, for comparison."""
    window: Positive | None = None
    """Most records that are sorted together, to share and pad better. Left out: 2048, or 256 for a
    deterministic run. A window is written only once all of it is computed, so it is also limited to
    twenty seconds of work, except in a deterministic run."""

    seed: int = 0
    """Seed of the noise that stability is measured with."""
    noise_std: Annotated[float, Field(gt=0)] = 0.1
    """Standard deviation of that noise, per dimension, in units of noise_scale."""
    noise_scale: NoiseScale = "absolute"
    """What noise_std is in units of. absolute: the residual's own; relative: the root mean square
    of the numbers of the residual that it is added to."""
    noise_draws: Annotated[int, Field(ge=1, le=1024)] = 8
    """How many draws of that noise the stability of a text is the mean of."""

    prefetch_records: Positive = 4096
    """Most tokenized records that wait for the device."""
    prefetch_bytes: Positive = 64 * 2**20
    """Most bytes that they hold."""
    row_group_rows: Positive = 4096
    """Rows in a Parquet row group: about 2 MB at three layers."""
    part_rows: Positive = 1_000_000
    """A part file closes at this many rows, if not before."""
    part_bytes: Positive = 128 * 2**20
    """A part file closes at this many bytes, if not before."""
    part_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A part file closes this many seconds after its first row, if not before: a kill loses as
    much."""
    disk_wait_seconds: Annotated[float, Field(ge=0)] = 3600.0
    """How long to wait for space on a full disk before the run stops, to be resumed."""

    stall_seconds: Annotated[float, Field(gt=0)] = 600.0
    """A stage without progress for this long counts as hung, and the run breaks off. No batch may
    take longer; waiting for input does not count."""

    progress: Progress = "auto"
    """rich: live display; lines: a line every ten seconds; auto: rich on a terminal."""
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Serve Prometheus metrics of the run at this port. Left out: nowhere."""
    metrics_address: str = "127.0.0.1"
    """Where that port listens: by default for this machine alone; 0.0.0.0 for everyone."""

    @property
    def window_records(self) -> int:
        """Most records in a window."""
        return self.window or (256 if self.deterministic else 2048)

    @field_validator("field")
    @classmethod
    def _known_roles(cls, value: dict[str, str]) -> dict[str, str]:
        roles = ["id", *itertools.chain(*ROLES.values())]
        for role in value:
            if role not in roles:
                raise ValueError(f"{role!r} is not a role; the roles are {', '.join(roles)}")
        return value

    @field_validator("carry")
    @classmethod
    def _domain_too(cls, value: dict[str, CarryType]) -> dict[str, CarryType]:
        for name in value:
            if name in ("row", "id", "source") or name.endswith("_tokens"):
                raise ValueError(f"{name!r} is a column of every run; it cannot be carried")
        return {"domain": "string", **value}

    @field_validator("separator")
    @classmethod
    def _is_text(cls, value: str) -> str:
        if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError(f"{value!r} has a NUL or is not valid Unicode: no text has that")
        return value

    @field_validator("layers")
    @classmethod
    def _increasing(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != sorted(set(value)):
            raise ValueError("layers must be one or more, each once, in increasing order")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        layered = [("hook", self.hook), ("sae", self.sae)]
        for key, template in layered:
            if len(self.layers) > 1 and template != EMBEDDED and "{layer}" not in template:
                raise ValueError(
                    f"{key} = {template!r} needs {{layer}} in it: there are "
                    f"{len(self.layers)} layers"
                )
        if self.fp16 and self.bf16:
            raise ValueError("fp16 and bf16 exclude each other: give one of them")
        if (self.fp16 or self.bf16) and self.dtype != "float32":
            raise ValueError(
                f"{'fp16' if self.fp16 else 'bf16'} needs dtype = 'float32', found {self.dtype!r}: "
                f"it computes in a shorter format than the weights are kept in"
            )
        if self.model != EMBEDDED and self.sae == EMBEDDED:
            raise ValueError(
                f"model = {self.model!r} needs SAEs trained on it: give sae and layers"
            )
        if self.model != EMBEDDED and "layers" not in self.model_fields_set:
            raise ValueError(
                f"model = {self.model!r} needs layers, for example layers = [5, 12, 20]"
            )
        roles = set(self.field) - {"id"}
        if roles & set(ROLES["contrast"]) and roles & set(ROLES["text"]):
            raise ValueError(
                "field names roles of both kinds of record: give either text, or "
                "prompt, fact and hallucination"
            )
        return self


def load_config(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration that `file` (TOML), if given, and `overrides` on top of it make.

    :raises UsageError: the file cannot be read or parsed, or a key or value is wrong.
    """
    settings: dict[str, Any] = {}
    if file is not None:
        try:
            settings = tomllib.loads(file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the configuration {file}: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{file} is not valid TOML: {error}") from None
    for key, value in (overrides or {}).items():
        # maps are merged: a --carry on the command line adds to those of the file
        in_file = settings.get(key, {})
        is_map = isinstance(value, dict) and isinstance(in_file, dict)
        settings[key] = {**in_file, **value} if is_map else value
    try:
        return RunConfig(**settings)
    except ValidationError as error:
        raise UsageError(_explain(error, file)) from None


def _explain(error: ValidationError, file: Path | None) -> str:
    """One message for all wrong keys: each key, its value, and what it could be."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, RunConfig.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see `streamer run --help` for all"
            message = f"there is no such key; {hint}"
        elif problem["type"] != "value_error":
            message = f"{message}, found {problem['input']!r}"
        lines.append(f"{key}: {message}" if key else message)
    return f"configuration{f' {file}' if file else ''}: " + "; ".join(lines)
