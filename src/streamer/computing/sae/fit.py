"""Whether an SAE is what can be measured here, and was made for what the model gives it.

Whatever its configuration or metadata say that changes what it reads or what its features mean is
either honoured or refused here; `processing` does the same for how its model was loaded, and
`caveats` tells what remains.
"""

import math
from collections.abc import Mapping
from typing import Any

from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

from streamer.computing.model.hook_names import in_hugging_face, is_among
from streamer.computing.model.language_model import LanguageModel
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
UNFOLDED = {
    "expected_average_only_in": (
        "divides its input by a factor that was estimated in training",
        "fold_activation_norm_scaling_factor(factor)",
    ),
    "covariance_whitening": (
        "whitens its input with statistics that were estimated in training",
        "fold_activation_whitening(mean, matrix, inverse)",
    ),
}
"""Normalisations that SAELens folds into the weights at the end of training, and leaves out where
they are not: what they do, and what folds them."""
TYPES: dict[str, tuple[Any, str]] = {
    "model_name": (str, "text"),
    "hook_name": (str, "text"),
    "hf_hook_name": (str, "text"),
    "hook_name_out": (str, "text"),
    "prepend_bos": (bool, "true or false"),
    "context_size": (int, "whole number"),
    "seqpos_slice": ((list, tuple), "list"),
    "model_from_pretrained_kwargs": (Mapping, "table"),
    "activation_fn_kwargs": (Mapping, "table"),
}
"""What is read of a configuration or its metadata, and of which type it is to be."""
ACTIVATIONS = {"topk": {"topk", "abstopk"}}
"""Activation functions in older configurations, and the architectures that have them today.
SAELens takes any other for ReLU."""


def refuse_ill_typed(said: Mapping[str, Any], location: str) -> None:
    """Return if what an SAE says of itself, or its metadata `said`, is of the right types.

    :raises UsageError: it is not.
    """
    for key, (kinds, expected) in TYPES.items():
        value = said.get(key)
        is_flag = isinstance(value, bool) and kinds is int  # Python takes True for 1
        if value is not None and (is_flag or not isinstance(value, kinds)):
            raise UsageError(
                f"the SAE {location} says {key} = {value!r}, which is no {expected}. Correct it in "
                f"its cfg.json."
            )


def refuse_unloadable(said: Mapping[str, Any], location: str) -> None:
    """Return if SAELens has an SAE of the architecture that the configuration `said` has.

    :raises UsageError: it has not, or only while it is trained.
    """
    architecture = said.get("architecture", "standard")
    if architecture in SAE_CLASS_REGISTRY:
        return
    if architecture in SAE_TRAINING_CLASS_REGISTRY:
        raise UsageError(
            f"the SAE {location} is a checkpoint of the training (architecture {architecture}): "
            f"which of its features are active depends on the other texts of a batch. Give the "
            f"SAE that SAELens' trainer puts out at its end, or make it from the checkpoint: "
            f"TrainingSAE.load_from_disk({location!r}).save_inference_model(folder)."
        )
    raise UsageError(
        f"the SAE {location} has the architecture {architecture!r}, which SAELens does not know: "
        f"it knows {', '.join(sorted(SAE_CLASS_REGISTRY))}. Choose another, or convert it."
    )


def refuse_misfit(
    sae: Any,
    said: Mapping[str, Any],
    location: str,
    index: int,
    *,
    config: RunConfig,
    model: LanguageModel,
) -> None:
    """Return if `sae`, whose configuration `said` this in its files, is an autoencoder of what
    `model` reads at its hook number `index`.

    :raises UsageError: it is not, or expects its input in another form.
    """
    metadata = sae.cfg.metadata
    _refuse_architecture(sae, said, location)
    _refuse_numbers(sae, location)
    _refuse_hook(metadata, location, index, model)
    if sae.cfg.d_in != model.width:
        raise UsageError(
            f"the SAE {location} reads {sae.cfg.d_in} dimensions, and {model.hook_names[index]} of "
            f"the model {model.identity.name} has {model.width} (d_model {model.d_model}). Choose "
            f"SAEs of this model."
        )
    if not config.allow_other_model and is_of_another_model(metadata.model_name, model):
        raise UsageError(
            f"the SAE {location} was trained on {metadata.model_name}, and the model is "
            f"{model.identity.in_words}. Choose SAEs of this model, "
            f"or the model of these SAEs; or give --allow-other-model to measure this one with "
            f"them, as a fine-tune of theirs. A directory is known by its name, or by "
            f"_name_or_path in its config.json."
        )


def is_of_another_model(trained_on: str | None, model: LanguageModel) -> bool:
    """Whether an SAE that was trained on the model of that name was trained on another than
    `model`; False if it does not say on which."""
    identity = model.identity
    return trained_on is not None and not (
        identity.is_called(trained_on) or identity.claims_to_be(trained_on)
    )


def _refuse_architecture(sae: Any, said: Mapping[str, Any], location: str) -> None:
    """:raises UsageError: it is not an autoencoder of one position's activation, or what it does
    to its input or its features is not done by SAELens."""
    architecture, metadata = sae.cfg.architecture(), sae.cfg.metadata
    if architecture in UNFIT:
        raise UsageError(
            f"the SAE {location} is a {architecture}: {UNFIT[architecture]}. Choose an autoencoder."
        )
    if metadata.hook_name_out not in (None, metadata.hook_name):
        raise UsageError(
            f"the SAE {location} reads {metadata.hook_name} and predicts {metadata.hook_name_out}: "
            f"it is a transcoder. Choose an autoencoder."
        )
    if sae.cfg.normalize_activations in UNFOLDED:
        does, fold = UNFOLDED[sae.cfg.normalize_activations]
        raise UsageError(
            f"the SAE {location} {does} (normalize_activations = "
            f"{sae.cfg.normalize_activations!r}), and its weights do not do that yet: it is a "
            f"checkpoint of the training, or was saved before it was folded. Give the SAE that "
            f"SAELens' trainer puts out at its end, or fold it with sae.{fold} and save_model."
        )
    activation = said.get("activation_fn_str", said.get("activation_fn")) or "relu"
    if architecture not in ACTIVATIONS.get(activation, ()) and activation != "relu":
        raise UsageError(
            f"the SAE {location} has the activation function {activation!r}, and SAELens runs its "
            f"architecture {architecture!r} without it. Choose another, or convert it."
        )
    if (said.get("activation_fn_kwargs") or {}).get("signed") and architecture != "abstopk":
        raise UsageError(
            f"the SAE {location} has features with a sign (activation_fn_kwargs: signed), and "
            f"SAELens runs its architecture {architecture!r} without negative ones. Convert it to "
            f"an abstopk."
        )


def _refuse_numbers(sae: Any, location: str) -> None:
    """:raises UsageError: no feature could be active, whatever it reads, or none could be found."""
    k = getattr(sae.cfg, "k", 1)
    if not isinstance(k, int) or not 0 < k <= sae.cfg.d_sae:
        raise UsageError(
            f"the SAE {location} is to have the k = {k} strongest of its {sae.cfg.d_sae} features. "
            f"Correct k in its cfg.json."
        )
    for name, weight in sae.named_parameters():
        total = float(weight.detach().sum())  # one look at each, and no copy
        if math.isnan(total) or (math.isinf(total) and name != "threshold"):
            raise UsageError(
                f"the SAE {location} has numbers in {name} that are not finite: what it says of "
                f"any text would not be either. Choose another, or get its files again."
            )


def _refuse_hook(metadata: Any, location: str, index: int, model: LanguageModel) -> None:
    """:raises UsageError: it was trained on another activation than the model's hook `index`."""
    hook, aliases = model.hook_names[index], model.hook_aliases[index]
    for trained_on in (metadata.hook_name, metadata.hf_hook_name):
        if trained_on is not None and not is_among(trained_on, aliases):
            theirs = in_hugging_face(aliases)
            raise UsageError(
                f"the SAE {location} was trained on {trained_on}, and the run reads {hook}"
                f"{f' (Hugging Face: {theirs})' if theirs else ''}. Change --sae, --layers or "
                f"--hook so that they agree."
            )
    if metadata.hook_head_index is not None:
        raise UsageError(
            f"the SAE {location} was trained on head {metadata.hook_head_index} of {hook} alone, "
            f"and the run reads all heads. Choose SAEs of all."
        )
