"""The flags that every command shares: RunConfig's keys, with their types and help from there."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, Union, get_args, get_origin

from cyclopts import Parameter

from streamer.config import STDIN, RunConfig, load_config
from streamer.errors import UsageError

POSITIONAL = "paths"
"""The key that is no flag."""


def _help_of(key: str) -> str:
    """A flag's help: its docstring in the configuration, with choices and default."""
    known = RunConfig.model_fields[key]
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


def _taken_as(annotation: Any) -> Any:
    """What the command line reads for a key of this type. RunConfig validates the value, so
    choices, numbers with commas and each entry of a map are text here."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _taken_as(arguments[0])
    if origin in (Union, UnionType):
        return _taken_as(next(one for one in arguments if one is not NoneType))
    if origin is dict:
        return list[str]
    return str if origin in (Literal, tuple) else annotation


def _flag(key: str) -> Any:
    """A switch that is off unless it is given needs no --no-switch."""
    known = RunConfig.model_fields[key]
    taken = _taken_as(known.annotation)
    has_negative = taken is bool and known.default is not False
    negative = None if has_negative else ""
    return Annotated[taken, Parameter(help=_help_of(key), negative=negative, show_default=False)]


if TYPE_CHECKING:
    Flags = dict[str, Any]
else:
    # not RunConfig itself: values are validated once file and flags are merged
    keys = [key for key in RunConfig.model_fields if key != POSITIONAL]
    Flags = TypedDict("Flags", {key: _flag(key) for key in keys}, total=False)
    Flags.__doc__ = "The flags given on the command line; others are absent."

Paths = Annotated[str, Parameter(help=_help_of(POSITIONAL), allow_leading_hyphen=True)]
File = Annotated[
    Path | None, Parameter(help="A TOML file with any of these settings; flags override it.")
]
Settings = Annotated[Flags | None, Parameter(name="*")]
Count = Annotated[int, Parameter(help="How many of the first records to take.")]


def config_from(
    file: Path | None, paths: Sequence[str], flags: Mapping[str, Any] | None
) -> RunConfig:
    """The configuration that `file` and, on top of it, the command line make.

    :raises UsageError: a setting in either is wrong.
    """
    _refuse_flags(paths)
    given = dict(flags or {})
    if paths:
        given[POSITIONAL] = paths
    for key in ("field", "carry"):
        if key in given:
            given[key] = dict(_pair(key, text) for text in given[key])
    if "layers" in given:
        given["layers"] = numbers("--layers", given["layers"])
    return load_config(file, given)


def numbers(flag: str, text: str) -> list[int]:
    """The whole numbers in `text`, between commas.

    :raises UsageError: it has anything else.
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
            flags = ["--" + key.replace("_", "-") for key in RunConfig.model_fields]
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
