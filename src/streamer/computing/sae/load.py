"""The sparse autoencoders: loaded through SAELens, checked against the model."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sae_lens import SAE
from sae_lens.loading.pretrained_sae_loaders import LLM_METADATA_KEYS, sae_lens_disk_loader

from streamer.computing.model.content import hashing
from streamer.computing.model.find import cached_revision, first_line
from streamer.computing.model.fingerprint import fingerprint
from streamer.computing.model.language_model import LanguageModel
from streamer.computing.model.precision import sae_dtype
from streamer.computing.sae.caveats import caveats, join
from streamer.computing.sae.find import SaeLocation
from streamer.computing.sae.fit import refuse_ill_typed, refuse_misfit, refuse_unloadable
from streamer.computing.sae.layer_sae import LayerSae
from streamer.computing.sae.processing import Processing
from streamer.computing.sae.release import loader_of
from streamer.config import RunConfig
from streamer.errors import UsageError


def load_saes(
    locations: Sequence[SaeLocation], config: RunConfig, model: LanguageModel
) -> tuple[LayerSae, ...]:
    """The SAEs at `locations`, on the model's device and in its format. What the user should know
    about them is among the model's notes afterwards.

    :raises UsageError: an SAE cannot be loaded, expects what it is not given here, or was made for
        another hook, width or model.
    """
    with hashing([found.location for found in locations]) as hashes:
        saes = _load_all(locations, config, model)
        for sae, content in zip(saes, hashes(), strict=True):
            sae.content = content
    return saes


def _load_all(
    locations: Sequence[SaeLocation], config: RunConfig, model: LanguageModel
) -> tuple[LayerSae, ...]:
    saes, notes = [], []
    processing = Processing(config, model)
    for index, found in enumerate(locations):
        sae, said = _load(found, config, str(model.device))
        sae.eval()
        sae.turn_off_forward_pass_hook_z_reshaping()  # heads arrive flattened already
        refuse_misfit(sae, said, found.location, index, config=config, model=model)
        processed = processing.of(sae, found.location, index)
        revision = None
        if found.repository is not None:
            revision = cached_revision(found.repository, config.sae_revision)
        saes.append(
            LayerSae(
                found.layer,
                found.location,
                sae,
                fingerprint(found.location),
                revision,
                is_centred=processed.is_centred,
            )
        )
        told = (*processed.notes, *caveats(sae, said, found, config, model))
        notes += [(found.layer, note) for note in told]
    model.notes += join(notes)
    return tuple(saes)


def wants_bos(config: RunConfig, saes: Sequence[LayerSae]) -> bool | None:
    """Whether passages begin with BOS: as configured, else as in the SAEs' metadata; None if
    neither says.

    :raises UsageError: the SAEs disagree.
    """
    if config.prepend_bos is not None:
        return config.prepend_bos
    by_location = {sae.location: sae.sae.cfg.metadata.prepend_bos for sae in saes}
    wishes = {wish for wish in by_location.values() if wish is not None}
    if len(wishes) > 1:
        raise UsageError(
            f"the SAEs disagree about prepend_bos: {by_location}. Set it in the configuration."
        )
    return bool(wishes.pop()) if wishes else None


def _load(found: SaeLocation, config: RunConfig, device: str) -> tuple[Any, dict[str, Any]]:
    """The SAE at `found`, and its configuration as it stands in its files: SAELens drops keys that
    it does not know, and converts old ones.

    :raises UsageError: it cannot be loaded.
    """
    said: dict[str, Any] = {}
    where = {"device": device, "dtype": sae_dtype(config.dtype)}

    def listening(loader: Callable[..., Any]) -> Callable[..., Any]:
        def load(*args: Any, **how: Any) -> Any:
            loaded = loader(*args, **how)
            said.update(loaded[0])
            refuse_ill_typed(said, found.location)
            refuse_unloadable(said, found.location)
            return loaded

        return load

    try:
        if found.release is None:
            loader = listening(sae_lens_disk_loader)
            sae = SAE.load_from_disk(found.location, converter=loader, **where)
        else:
            loader = listening(
                loader_of(found.release[0], config.sae_revision, trusted=config.trust_remote_code)
            )
            sae = SAE.from_pretrained(*found.release, converter=loader, **where)
    except UsageError:
        raise
    except Exception as error:  # whatever a damaged file makes of SAELens
        raise UsageError(
            f"cannot load the SAE {found.location}: {type(error).__name__}: {_message(error)}"
        ) from error
    metadata = sae.cfg.metadata
    for key in LLM_METADATA_KEYS & said.keys() - metadata.keys():
        metadata[key] = said[key]  # SAELens overlooks those that stand beside its "metadata"
    refuse_ill_typed({key: metadata[key] for key in list(metadata.keys())}, found.location)
    if not _says_bos(found):
        metadata.prepend_bos = None  # SAELens takes it for true where an old configuration lacks it
    if found.model is not None:
        metadata.model_name = found.model
    return sae, said


def _says_bos(found: SaeLocation) -> bool:
    """Whether the SAE says itself if texts begin with BOS; what a release says is SAELens' word."""
    if found.release is not None:
        return True
    own = json.loads((Path(found.location) / "cfg.json").read_text("utf-8"))
    return "prepend_bos" in own or "prepend_bos" in (own.get("metadata") or {})


def _message(error: Exception) -> str:
    """What `error` says. That of torch about weights that do not belong to the architecture begins
    with a line that names none of them."""
    lines = str(error).strip().splitlines()
    is_list = len(lines) > 1 and lines[0].startswith("Error(s) in loading state_dict")
    return " ".join(line.strip() for line in lines[1:4]) if is_list else first_line(error)
