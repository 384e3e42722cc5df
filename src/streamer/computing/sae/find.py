"""Where the SAEs are, known before a model of many GB is loaded. Only a release imports torch."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from streamer import embedded
from streamer.computing.model.find import require_on_hub
from streamer.config import EMBEDDED, RunConfig
from streamer.errors import UsageError

SAE_FILES = ("cfg.json", "sae_weights.safetensors")


@dataclass(frozen=True, slots=True)
class SaeLocation:
    """Where the SAE of a layer is."""

    layer: int
    location: str
    release: tuple[str, str] | None
    """SAELens' release and sae_id; None for a local directory."""
    repository: str | None
    """The hub repository of a release."""
    model: str | None = None
    """The model that SAELens' directory says a release is of: the metadata of some name its base
    model."""


def find_saes(config: RunConfig) -> tuple[SaeLocation, ...]:
    """Where each configured SAE is.

    :raises UsageError: one is not found.
    """
    found = []
    for layer, location in zip(config.layers, sae_locations(config), strict=True):
        local = Path(location).is_dir()
        if local:
            found.append(SaeLocation(layer, location, None, None))
        else:
            found.append(SaeLocation(layer, location, *_release(location, config.sae_revision)))
    return tuple(found)


def sae_locations(config: RunConfig) -> list[str]:
    """For each layer the directory or `release/sae_id` that the template names.

    :raises UsageError: a directory lacks an SAE's files, or a revision is given for it.
    """
    template = embedded.SAES if config.sae == EMBEDDED else config.sae
    locations = [template.replace("{layer}", str(layer)) for layer in config.layers]
    for layer, location in zip(config.layers, locations, strict=True):
        path = Path(location)
        beside = len(path.parts) > 1 and path.parent.is_dir()
        if path.is_dir() or beside or location.startswith((".", "/", "~")):
            missing = [name for name in SAE_FILES if not (path / name).is_file()]
            if missing:
                raise UsageError(
                    f"no SAE for layer {layer} in {location}: {' and '.join(missing)} "
                    f"missing. Check --sae and --layers."
                )
            if config.sae_revision is not None:
                raise UsageError(
                    f"sae_revision = {config.sae_revision!r} names a commit of the hub, and the "
                    f"SAE {location} is a local directory, which has none. Leave --sae-revision "
                    f"out."
                )
    return locations


def _release(location: str, revision: str | None) -> tuple[tuple[str, str], str, str | None]:
    """SAELens' release and sae_id, the hub repository they are in, at `revision`, and the model
    that they are of, if SAELens knows it.

    A release is an entry of SAELens' directory, or a repository owner/name.
    """
    from sae_lens.loading.pretrained_saes_directory import (  # noqa: PLC0415
        get_pretrained_saes_directory,
    )

    known = get_pretrained_saes_directory()
    release, _, sae_id = location.partition("/")
    if release not in known:
        name, _, folder = sae_id.partition("/")
        if folder:
            require_on_hub(f"{release}/{name}", "SAE repository", revision)
            return (f"{release}/{name}", folder), f"{release}/{name}", None
        near = difflib.get_close_matches(release, known, n=3, cutoff=0.4)
        raise UsageError(
            f"no SAE at {location}: no such directory, and SAELens knows no release "
            f"{release!r}; near it are {', '.join(near) or 'none'}"
        )
    ids = known[release].saes_map
    if sae_id not in ids:
        near = difflib.get_close_matches(sae_id, ids, n=3, cutoff=0.0)
        raise UsageError(
            f"SAELens' release {release} has no SAE {sae_id!r}; near it are {', '.join(near)}"
        )
    require_on_hub(known[release].repo_id, "SAE repository", revision)
    return (release, sae_id), known[release].repo_id, known[release].model
