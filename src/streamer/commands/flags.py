"""The flags that every command shares: a key of the configuration each, with its help."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin

from cyclopts import Parameter

from streamer.config import STDIN, RunConfig, load_config
from streamer.errors import UsageError


def help_of(field: str) -> str:
    """A flag's help is its line in the configuration, with what it may be and what it is."""
    known = RunConfig.model_fields[field]
    text = (known.description or "").replace("\n", " ")
    choices = get_args(known.annotation) if get_origin(known.annotation) is Literal else ()
    if any(choice not in text for choice in choices):
        text += f" [{', '.join(choices)}]"
    default = known.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if isinstance(default, str | int | float) and not isinstance(default, bool):
        text += f" [default: {default}]"
    return text


def _flag(field: str) -> Any:
    return Parameter(help=help_of(field), negative="", show_default=False)


class Flags(TypedDict, total=False):
    """What is given on the command line; what is not is absent."""

    out: Annotated[Path, _flag("out")]
    kind: Annotated[str, _flag("kind")]
    field: Annotated[list[str], _flag("field")]
    carry: Annotated[list[str], _flag("carry")]
    limit: Annotated[int, _flag("limit")]
    too_long: Annotated[str, _flag("too_long")]
    follow: Annotated[bool, _flag("follow")]
    max_record_bytes: Annotated[int, _flag("max_record_bytes")]
    model: Annotated[str, _flag("model")]
    layers: Annotated[str, _flag("layers")]
    hook: Annotated[str, _flag("hook")]
    sae: Annotated[str, _flag("sae")]
    prepend_bos: Annotated[bool, Parameter(help=help_of("prepend_bos"))]
    trust_remote_code: Annotated[bool, _flag("trust_remote_code")]
    device: Annotated[str, _flag("device")]
    dtype: Annotated[str, _flag("dtype")]
    fp16: Annotated[bool, _flag("fp16")]
    bf16: Annotated[bool, _flag("bf16")]
    forward: Annotated[str, _flag("forward")]
    sharing: Annotated[str, _flag("sharing")]
    batch_size: Annotated[int, _flag("batch_size")]
    max_tokens: Annotated[int, _flag("max_tokens")]
    deterministic: Annotated[bool, _flag("deterministic")]
    overlap: Annotated[bool, Parameter(help=help_of("overlap"))]
    window: Annotated[int, _flag("window")]
    seed: Annotated[int, _flag("seed")]
    noise_std: Annotated[float, _flag("noise_std")]
    prefetch_records: Annotated[int, _flag("prefetch_records")]
    prefetch_bytes: Annotated[int, _flag("prefetch_bytes")]
    row_group_rows: Annotated[int, _flag("row_group_rows")]
    part_rows: Annotated[int, _flag("part_rows")]
    part_bytes: Annotated[int, _flag("part_bytes")]
    part_seconds: Annotated[float, _flag("part_seconds")]
    disk_wait_seconds: Annotated[float, _flag("disk_wait_seconds")]
    stall_seconds: Annotated[float, _flag("stall_seconds")]
    progress: Annotated[str, _flag("progress")]
    metrics_port: Annotated[int, _flag("metrics_port")]
    metrics_address: Annotated[str, _flag("metrics_address")]


def config_from(file: Path | None, paths: Sequence[str], flags: Mapping[str, Any]) -> RunConfig:
    """The configuration that `file` and, on top of it, the command line make.

    :raises UsageError: of what is wrong in either.
    """
    _refuse_flags(paths)
    given = dict(flags)
    if paths:
        given["paths"] = paths
    for key in ("field", "carry"):
        if key in given:
            given[key] = dict(_pair(key, text) for text in given[key])
    if "layers" in given:
        given["layers"] = numbers("--layers", given["layers"])
    return load_config(file, given)


def numbers(flag: str, text: str) -> list[int]:
    """The whole numbers in `text`, between commas.

    :raises UsageError: there is something else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{flag} {text}: expected numbers with commas, for example 5,12,20") from (
            None
        )


def _refuse_flags(paths: Sequence[str]) -> None:
    """Paths may begin with a hyphen for the sake of -, so an unknown flag lands among them."""
    for path in paths:
        if path.startswith("-") and path != STDIN:
            flags = ["--" + field.replace("_", "-") for field in RunConfig.model_fields]
            near = difflib.get_close_matches(path.partition("=")[0], flags, n=1)
            hint = f"Did you mean {near[0]}?" if near else "See `streamer run --help`."
            raise UsageError(f"Unknown option: {path}. {hint}")


def _pair(key: str, text: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (left and equals and right):
        raise UsageError(
            f"--{key} {text}: expected NAME=VALUE, for example "
            f"{'text=question' if key == 'field' else 'complexity=int64'}"
        )
    return left, right
