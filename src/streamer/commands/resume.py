"""`streamer resume`: continue a run."""

import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from streamer.commands.run import run_to_end
from streamer.config import RunConfig, load_config
from streamer.errors import UsageError
from streamer.manifest import Manifest


def resume(
    run: Annotated[Path, Parameter(help="The run directory.")],
    /,
    *,
    trust_remote_code: Annotated[
        bool,
        Parameter(
            help="Let the model run code of its own and load pickled weights, as the run was "
            "begun: this must be given again.",
            negative="",
        ),
    ] = False,
) -> int:
    """Go on with a run that was stopped or killed, with the settings it was begun with."""
    from streamer.results.run import manifest_of  # noqa: PLC0415
    from streamer.writing.storage.local import LocalStorage  # noqa: PLC0415

    manifest, out = manifest_of(LocalStorage(run)), run.resolve()
    settings = settings_of(manifest) | {"out": out, "trust_remote_code": trust_remote_code}
    if manifest.config.trust_remote_code and not trust_remote_code:
        raise UsageError(
            f"{run} was begun with --trust-remote-code, which lets its model run code here. A run "
            f"directory cannot allow that, as others may have written it. If you trust the model "
            f"{settings.get('model')}: streamer resume {run} --trust-remote-code"
        )
    try:
        os.chdir(manifest.working_directory)  # where its relative paths begin
    except OSError as error:
        raise UsageError(
            f"{run} was begun in {manifest.working_directory}, where its relative paths begin: "
            f"{error}. Bring that directory back."
        ) from None
    return run_to_end(load_config(overrides=settings))


def settings_of(manifest: Manifest) -> dict[str, Any]:
    """The settings to resume with: those of `manifest`, with the commits that it began with for
    what it read from the hub, whose branches move.

    Settings that this version does not know are left out: `running.resume` rejects them by name.
    """
    recorded = manifest.config.model_dump(mode="json", exclude_unset=True)
    settings = {key: value for key, value in recorded.items() if key in RunConfig.model_fields}
    if manifest.model is not None and manifest.model.revision is not None:
        settings["revision"] = manifest.model.revision
    of_saes = {sae.revision for sae in manifest.saes}
    if len(of_saes) == 1 and None not in of_saes:  # in several repositories they have no common one
        settings["sae_revision"] = of_saes.pop()
    return settings
