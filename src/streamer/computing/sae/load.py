"""The sparse autoencoders: loaded through SAELens, checked against the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lens import SAE
from transformer_lens.supported_models import MODEL_ALIASES

from streamer.computing.model.find import cached_revision, first_line
from streamer.computing.model.fingerprint import fingerprint
from streamer.computing.model.language_model import LanguageModel
from streamer.computing.model.precision import sae_dtype
from streamer.computing.sae.find import SaeLocation
from streamer.computing.sae.layer_sae import LayerSae
from streamer.computing.sae.release import loader_of
from streamer.config import RunConfig
from streamer.errors import UsageError

UNFIT = {
    "temporal": "its features depend on the other positions of the text",
    "transcoder": "it predicts another activation than it reads",
    "skip_transcoder": "it predicts another activation than it reads",
    "jumprelu_transcoder": "it predicts another activation than it reads",
    "jumprelu_skip_transcoder": "it predicts another activation than it reads",
}
"""SAELens' architectures that are not autoencoders of one position's activation."""


def load_saes(
    locations: Sequence[SaeLocation], config: RunConfig, model: LanguageModel
) -> tuple[LayerSae, ...]:
    """The SAEs at `locations`, on the model's device and in its format.

    :raises UsageError: an SAE cannot be loaded, or was made for another hook, width or model.
    """
    saes = []
    where = {"device": str(model.device), "dtype": sae_dtype(config.dtype)}
    for found, hook in zip(locations, model.hook_names, strict=True):
        try:
            if found.release is None:
                sae = SAE.load_from_disk(found.location, **where)
            else:
                loader = loader_of(
                    found.release[0], config.sae_revision, trusted=config.trust_remote_code
                )
                sae = SAE.from_pretrained(*found.release, converter=loader, **where)
        except UsageError:
            raise
        except Exception as error:  # whatever a damaged file makes of SAELens
            raise UsageError(
                f"cannot load the SAE {found.location}: {type(error).__name__}: {first_line(error)}"
            ) from error
        sae.eval()
        sae.turn_off_forward_pass_hook_z_reshaping()  # heads arrive flattened already
        _check(sae, found.location, hook, model)
        revision = None
        if found.repository is not None:
            revision = cached_revision(found.repository, config.sae_revision)
        saes.append(
            LayerSae(found.layer, found.location, sae, fingerprint(found.location), revision)
        )
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


def _check(sae: Any, location: str, hook: str, model: LanguageModel) -> None:
    """:raises UsageError: `sae` is not an autoencoder of `hook` in `model`."""
    metadata = sae.cfg.metadata
    architecture = sae.cfg.architecture()
    if architecture in UNFIT:
        raise UsageError(
            f"the SAE {location} is a {architecture}: {UNFIT[architecture]}. Choose an autoencoder."
        )
    if metadata.hook_name is not None and metadata.hook_name != hook:
        raise UsageError(
            f"the SAE {location} was trained on {metadata.hook_name}, and the run reads "
            f"{hook}. Change --sae, --layers or --hook so that they agree."
        )
    if sae.cfg.d_in != model.width:
        raise UsageError(
            f"the SAE {location} reads {sae.cfg.d_in} dimensions, and {hook} of the model "
            f"{model.identity.name} has {model.width} (d_model {model.d_model}). Choose SAEs of "
            f"this model."
        )
    trained_on = metadata.model_name
    if trained_on is not None and not _names(trained_on) & model.identity.aliases:
        raise UsageError(
            f"the SAE {location} was trained on {trained_on}, and the model is "
            f"{' or '.join(sorted(model.identity.aliases))}. Choose SAEs of this model, "
            f"or the model of these SAEs. A directory is known by its name, or by "
            f"_name_or_path in its config.json."
        )


def _names(trained_on: str) -> set[str]:
    """The names under which the model that an SAE was trained on may be known here."""
    names = {trained_on}
    for official, aliases in MODEL_ALIASES.items():
        if trained_on in (official, Path(official).name, *aliases):
            names |= {official, *aliases}
    return {Path(name).name.lower() for name in names}
