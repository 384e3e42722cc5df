"""Where model and SAEs lie, checked without torch, so that a wrong path is told at once."""

from pathlib import Path

from streamer import embedded
from streamer.config import EMBEDDED, RunConfig
from streamer.errors import UsageError

SAE_FILES = ("cfg.json", "sae_weights.safetensors")


def model_path(config: RunConfig) -> str:
    """The directory or hub name behind the configured model.

    :raises UsageError: a directory without a model, or a path to nothing.
    """
    name = config.model
    path = embedded.MODEL if name == EMBEDDED else Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(
                f"no model in {path}: it has no config.json. Give a directory in "
                f"Hugging Face format or a hub name."
            )
        return str(path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UsageError(
            f"no model at {name}: it is not a directory. Give a directory in Hugging "
            f"Face format or a hub name such as google/gemma-2-2b."
        )
    return name


def sae_locations(config: RunConfig) -> list[str]:
    """For each layer the directory or `release/sae_id` that the template names.

    :raises UsageError: a directory that lacks an SAE's files.
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
    return locations
