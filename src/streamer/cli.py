"""The commands: parse, call, print, exit code. torch is imported only once a command needs it."""

import contextlib
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import anyio
import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from streamer import __version__
from streamer.config import STDIN, Progress, RunConfig, load_config
from streamer.errors import StreamerError, UsageError

app = cyclopts.App(
    name="streamer",
    version=__version__,
    help="Streams JSON through a language model and its sparse autoencoders and writes what it "
    "measures to Parquet.",
    help_format="plaintext",
)


def _help(field: str) -> str:
    """A flag's help is its line in the configuration."""
    return (RunConfig.model_fields[field].description or "").replace("\n", " ")


def _flag(field: str, *names: str) -> Any:
    return Parameter(name=names or None, help=_help(field), negative="", show_default=False)


@app.command
def run(
    *paths: Annotated[str, Parameter(help=_help("paths"), allow_leading_hyphen=True)],
    config: Annotated[
        Path | None, Parameter(help="A TOML file with any of these settings; flags override it.")
    ] = None,
    out: Annotated[Path | None, _flag("out")] = None,
    kind: Annotated[str | None, _flag("kind")] = None,
    field: Annotated[list[str] | None, _flag("field")] = None,
    carry: Annotated[list[str] | None, _flag("carry")] = None,
    limit: Annotated[int | None, _flag("limit")] = None,
    too_long: Annotated[str | None, _flag("too_long")] = None,
    max_record_bytes: Annotated[int | None, _flag("max_record_bytes")] = None,
    model: Annotated[str | None, _flag("model")] = None,
    layers: Annotated[str | None, _flag("layers")] = None,
    hook: Annotated[str | None, _flag("hook")] = None,
    sae: Annotated[str | None, _flag("sae")] = None,
    prepend_bos: Annotated[bool | None, Parameter(help=_help("prepend_bos"))] = None,
    trust_remote_code: Annotated[bool | None, _flag("trust_remote_code")] = None,
    device: Annotated[str | None, _flag("device")] = None,
    dtype: Annotated[str | None, _flag("dtype")] = None,
    fp16: Annotated[bool | None, _flag("fp16")] = None,
    bf16: Annotated[bool | None, _flag("bf16")] = None,
    forward: Annotated[str | None, _flag("forward")] = None,
    sharing: Annotated[str | None, _flag("sharing")] = None,
    batch_size: Annotated[int | None, _flag("batch_size")] = None,
    max_tokens: Annotated[int | None, _flag("max_tokens")] = None,
    deterministic: Annotated[bool | None, _flag("deterministic")] = None,
    overlap: Annotated[bool | None, Parameter(help=_help("overlap"))] = None,
    window: Annotated[int | None, _flag("window")] = None,
    seed: Annotated[int | None, _flag("seed")] = None,
    noise_std: Annotated[float | None, _flag("noise_std")] = None,
    prefetch_records: Annotated[int | None, _flag("prefetch_records")] = None,
    prefetch_bytes: Annotated[int | None, _flag("prefetch_bytes")] = None,
    row_group_rows: Annotated[int | None, _flag("row_group_rows")] = None,
    part_rows: Annotated[int | None, _flag("part_rows")] = None,
    part_bytes: Annotated[int | None, _flag("part_bytes")] = None,
    part_seconds: Annotated[float | None, _flag("part_seconds")] = None,
    progress: Annotated[Progress | None, _flag("progress")] = None,
) -> int:
    """Measure every record of PATHS and write a run directory.

    Without arguments: the embedded model on the embedded records.
    """
    given = {key: value for key, value in locals().items() if value not in (None, ())}
    _refuse_flags(paths)
    file = given.pop("config", None)
    for key in ("field", "carry"):
        if key in given:
            given[key] = dict(_pair(key, text) for text in given[key])
    if "layers" in given:
        given["layers"] = _numbers(given["layers"])
    settings = load_config(file, given)
    return _run(settings)


def _run(config: RunConfig) -> int:
    from streamer.preparation import prepare  # noqa: PLC0415

    prepared = prepare(config)
    console = Console()
    nobody_listens = contextlib.suppress(OSError, SystemExit)  # rich exits on a closed pipe
    with nobody_listens:
        if config.progress != "none":
            console.print(f"Loading {config.model} …", highlight=False)
    from streamer.execution import run as run_prepared  # noqa: PLC0415
    from streamer.monitoring.summary import print_summary  # noqa: PLC0415

    summary = anyio.run(run_prepared, prepared, console)
    with nobody_listens:
        print_summary(summary, console)
    return 0 if summary.signal is None else 128 + summary.signal


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


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--layers {text}: expected numbers with commas, for example 5,12,20"
        ) from (None)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exit codes: 0 done; 1 broken off; 2 usage; 128 + signal if stopped."""
    errors = Console(stderr=True, soft_wrap=True)
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))} See `streamer run --help`.")
        code = UsageError.exit_code
    except StreamerError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        code = error.exit_code
    except KeyboardInterrupt:
        errors.print("stopped before the run began")
        code = 130
    sys.exit(code or 0)
