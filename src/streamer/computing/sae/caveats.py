"""What a user should know about SAEs that are measured all the same."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sae_lens import LanguageModelSAERunnerConfig
from sae_lens.loading.pretrained_sae_loaders import LLM_METADATA_KEYS
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

from streamer.computing.model.language_model import LanguageModel
from streamer.computing.model.precision import sae_dtype
from streamer.computing.sae.find import SaeLocation
from streamer.computing.sae.fit import is_of_another_model
from streamer.computing.sae.layer_sae import LayerSae
from streamer.config import RunConfig

TRAINING = {
    field.name
    for cls in (
        LanguageModelSAERunnerConfig,
        *(config for _, config in SAE_TRAINING_CLASS_REGISTRY.values()),
    )
    for field in fields(cls)
}
"""How an SAE was trained, which older configurations name among the rest."""
OLDER = {
    "activation_fn", "activation_fn_kwargs", "activation_fn_str", "architecture",
    "finetuning_scaling_factor", "hook_layer", "hook_point", "hook_point_head_index",
    "hook_point_layer", "metadata",
}  # fmt: skip
"""Keys of SAELens' own that are not fields today: read by it or by `fit`, or of no effect."""
DESCRIBING = {
    "training_architecture", "training_architecture_details", "l0", "num_dead_features", "tokens",
}  # fmt: skip
"""Metadata that tell how an SAE came out."""
IDENTIFYING = ("model_name", "hook_name", "prepend_bos")


def caveats(
    sae: Any, said: Mapping[str, Any], found: SaeLocation, config: RunConfig, model: LanguageModel
) -> Iterator[str]:
    """What is to be known of `sae`, which is measured on `model`, a clause each. `said` is its
    configuration in its files."""
    metadata = sae.cfg.metadata
    if is_of_another_model(metadata.model_name, model):
        yield (
            f"trained on {metadata.model_name}, and measured on {model.identity.in_words} "
            f"(allow_other_model)"
        )
    elif metadata.model_name and not model.identity.is_called(metadata.model_name):
        yield (
            f"trained on {metadata.model_name}, which the model is by _name_or_path in its "
            f"config.json alone: fine-tunes keep that"
        )
    elif metadata.model_name and _is_path(metadata.model_name):
        yield f"trained on {metadata.model_name}: that the model is this is known by its name alone"
    silent = [key for key in IDENTIFYING if metadata[key] is None]
    if metadata.hf_hook_name is not None:
        silent = [key for key in silent if key != "hook_name"]
    if silent:
        yield f"the metadata lack {', '.join(silent)}, so that is not checked"
    if config.prepend_bos not in (None, metadata.prepend_bos) and metadata.prepend_bos is not None:
        trained, run = ("without", "with") if config.prepend_bos else ("with", "without")
        yield f"trained {trained} BOS, and measured {run} (prepend_bos)"
    if any(edge is not None for edge in metadata.seqpos_slice or ()):
        where = ":".join("" if edge is None else str(edge) for edge in metadata.seqpos_slice)
        yield f"trained on the positions {where} of texts alone (seqpos_slice)"
    kept, run_in = _kept_in(found), sae_dtype(config.dtype)
    if kept not in (None, "float32", run_in):
        yield f"kept in {kept} and run in {run_in}"
    unknown = sorted(_unknown(sae, said))
    if unknown:
        yield f"nothing is made of {', '.join(unknown)} in the configuration: not known here"


def beyond_training(saes: Sequence[LayerSae], longest: int) -> list[str]:
    """A sentence for each length of the texts that `saes` were trained on, if passages of `longest`
    tokens are longer."""
    return join(
        [
            (
                sae.layer,
                f"trained on texts of at most {sae.trained_length:,} tokens, and longer passages "
                f"are measured",
            )
            for sae in saes
            if sae.trained_length is not None and sae.trained_length < longest
        ]
    )


def join(notes: Sequence[tuple[int, str]]) -> list[str]:
    """A sentence for each different note of (layer, note), with all its layers."""
    layers = defaultdict(list)
    for layer, note in notes:
        layers[note].append(str(layer))
    return [
        f"SAE{'s' if len(at) > 1 else ''} of layer{'s' if len(at) > 1 else ''} {', '.join(at)}: "
        f"{note}"
        for note, at in layers.items()
    ]


def _is_path(name: str) -> bool:
    """Whether it is that of a local directory; a hub's has one slash at most."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _kept_in(found: SaeLocation) -> str | None:
    """The format that a local SAE's configuration says; SAELens' loaders of releases have it
    replaced by the one that they are to load."""
    if found.release is not None:
        return None
    said = json.loads((Path(found.location) / "cfg.json").read_text("utf-8")).get("dtype")
    return None if said is None else str(said).removeprefix("torch.")


def _unknown(sae: Any, said: Mapping[str, Any]) -> Iterator[str]:
    own = {field.name for field in fields(sae.cfg)}
    for key in said.keys() - own - LLM_METADATA_KEYS - TRAINING - OLDER - DESCRIBING:
        yield key
    for key in sae.cfg.metadata.keys() - own - LLM_METADATA_KEYS - TRAINING - DESCRIBING:
        yield f"metadata.{key}"
