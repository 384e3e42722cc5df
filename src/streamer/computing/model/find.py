"""Where the model is: a directory, or a name that the Hugging Face hub is asked for before anything
is loaded, so that a wrong name fails in seconds. Nothing here imports torch."""

from pathlib import Path

from streamer import embedded
from streamer.config import EMBEDDED, RunConfig
from streamer.errors import UsageError

SECONDS = 5.0
"""For an answer of the hub."""


def find_model(config: RunConfig) -> str:
    """The directory or hub name of the configured model.

    :raises UsageError: there is none.
    """
    path = model_path(config)
    if not Path(path).is_dir():
        require_on_hub(path, "model", config.revision)
    return path


def model_path(config: RunConfig) -> str:
    """The directory or hub name behind the configured model.

    :raises UsageError: a directory without a model, or with a revision, or a path to nothing.
    """
    name = config.model
    path = embedded.MODEL if name == EMBEDDED else Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(
                f"no model in {path}: it has no config.json. Give a directory in "
                f"Hugging Face format or a hub name."
            )
        if config.revision is not None:
            raise UsageError(
                f"revision = {config.revision!r} names a commit of the hub, and the model {name} "
                f"is a local directory, which has none. Leave --revision out."
            )
        # absolute: TransformerLens takes some relative names for models of the hub
        return str(path.absolute())
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UsageError(
            f"no model at {name}: it is not a directory. Give a directory in Hugging "
            f"Face format or a hub name such as google/gemma-2-2b."
        )
    return name


def require_on_hub(repository: str, what: str, revision: str | None = None) -> None:
    """Return if `repository` is in the local cache, or the hub knows it, at `revision`: a branch,
    tag or commit.

    :raises UsageError: neither; `what` says in the message what was looked for.
    """
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    named = repository if revision is None else f"{repository} at {revision}"
    try:
        snapshot_download(repository, revision=revision, local_files_only=True)
        return
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise UsageError(
            f"unknown {what} {repository!r}: no such directory, and no name for the "
            f"Hugging Face hub: {error}"
        ) from None
    try:
        HfApi().model_info(repository, revision=revision, timeout=SECONDS)
    except HfHubHTTPError as error:
        raise UsageError(
            f"unknown {what} {named!r}: no such directory, and the Hugging Face hub "
            f"says: {first_line(error)}. Check the name, and for a gated repository "
            f"your access token."
        ) from None
    except Exception as error:  # whatever the HTTP client of the day raises for a missing network
        raise UsageError(
            f"unknown {what} {named!r}: no such directory, not in the local cache, "
            f"and the Hugging Face hub cannot be reached: {first_line(error)}"
        ) from None


def cached_revision(repository: str, revision: str | None = None) -> str | None:
    """The commit of `repository` that the local cache holds as `revision`, by default as its main
    branch; None if it holds none."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    try:
        folder = snapshot_download(repository, revision=revision, local_files_only=True)
        return Path(folder).name
    except LocalEntryNotFoundError:
        return None


def first_line(error: BaseException) -> str:
    """What `error` says, without the paragraphs that follow."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
