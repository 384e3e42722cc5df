"""How the model was loaded that an SAE was trained on: TransformerLens can change its weights so
that it says the same, and its activations are others (`model_from_pretrained_kwargs`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from streamer.computing.model.constant_check import TOLERANCE, constants_that_arrive
from streamer.computing.model.language_model import LanguageModel
from streamer.config import EMBEDDED, RunConfig
from streamer.errors import UsageError

STREAM = {"hook_resid_pre", "hook_resid_mid", "hook_resid_post"}
WRITTEN = {"hook_attn_out", "hook_mlp_out"}
"""What is added to the residual stream."""
HEADS = {"hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q", "hook_rot_k"}
INSIDE = HEADS | {"hook_pre", "hook_pre_linear", "hook_post"}
"""Behind a normalisation of the stream, and before what is added to it."""
UNCHANGED: dict[str, set[str]] = {
    "fold_ln": STREAM | WRITTEN | INSIDE,
    "center_unembed": STREAM | WRITTEN | INSIDE,
    "fold_value_biases": STREAM | WRITTEN | INSIDE - {"hook_v", "hook_z"},
    "refactor_factored_attn_matrices": STREAM | WRITTEN | INSIDE - HEADS,
}
"""The other changes, and the hooks at which none of them shows."""
CENTERING = "center_writing_weights"
PRECISION = {"dtype", "torch_dtype", "load_in_8bit", "load_in_4bit", "quantization_config"}
OTHER_WEIGHTS = {"revision", "checkpoint_index", "checkpoint_value", "subfolder", "variant"}
INDIFFERENT = {
    "attn_implementation", "cache_dir", "default_padding_side", "default_prepend_bos", "device",
    "device_map", "first_n_layers", "force_download", "local_files_only", "low_cpu_mem_usage",
    "max_memory", "move_to_device", "n_ctx", "n_devices", "offload_folder", "output_attentions",
    "output_hidden_states", "proxies", "return_dict", "token", "trust_remote_code",
    "use_auth_token", "use_cache", "use_safetensors", "weights_only",
}  # fmt: skip
"""Where a model is loaded from and to, and how fast it runs."""


@dataclass(frozen=True, slots=True)
class Processed:
    """What becomes of the input of an SAE."""

    is_centred: bool
    """Its mean over all dimensions is subtracted."""
    notes: tuple[str, ...]


class Processing:
    """What SAEs say of how their model was loaded, honoured for `model` or refused."""

    def __init__(self, config: RunConfig, model: LanguageModel) -> None:
        self._config = config
        self._model = model

    def of(self, sae: Any, location: str, index: int) -> Processed:
        """What becomes of the input of `sae`, which is read at the model's hook number `index`.

        :raises UsageError: the model was loaded with other weights, or in a way that changes this
            input as cannot be done here, or may, for all that is known.
        """
        loaded_with = sae.cfg.metadata.model_from_pretrained_kwargs or {}
        is_centred, notes = False, self._own_revision(loaded_with)
        for key, value in loaded_with.items():
            said = f"{key} = {value!r}"
            if value is None or key in INDIFFERENT:
                continue
            if key in OTHER_WEIGHTS:
                notes += self._other_weights(key, value, location)
            elif key in PRECISION:
                if value and str(value).removeprefix("torch.") not in ("float32", "auto"):
                    notes.append(f"trained on residuals of a model with {said}")
            elif key == CENTERING:
                is_centred = bool(value) and self._centres(location, index)
            elif key not in UNCHANGED:
                raise _refused(location, said, "which is not known here, and may change what it "
                               "reads")  # fmt: skip
            elif value and not UNCHANGED[key] & self._kinds(index):
                raise _refused(location, said, f"which may change {self._model.hook_names[index]}")
        if is_centred:
            notes.append(f"the residual is read less its mean over dimensions ({CENTERING})")
        return Processed(is_centred, tuple(notes))

    def _kinds(self, index: int) -> set[str]:
        return {name.rpartition(".")[2] for name in self._model.hook_aliases[index]}

    def _centres(self, location: str, index: int) -> bool:
        """Whether centred writing weights take the mean from what is read at hook `index`; else
        they change nothing there.

        :raises UsageError: they do something else.
        """
        kinds, arrives = self._kinds(index), self._constants[index]
        expected = 1 if kinds & STREAM else 0
        if kinds & (STREAM | WRITTEN | INSIDE) and abs(arrives - expected) <= TOLERANCE:
            return bool(kinds & (STREAM | WRITTEN))
        raise _refused(
            location,
            f"{CENTERING} = True",
            f"which makes its input centred: its mean over all dimensions is 0. That can be done "
            f"for models that do not see this mean, as behind LayerNorm, and at hooks that read or "
            f"write the residual stream; {self._model.identity.name} at "
            f"{self._model.hook_names[index]} is another case (with RMSNorm, TransformerLens "
            f"centres nothing, so that the residual would be read as it is)",
        )

    @cached_property
    def _constants(self) -> Sequence[float]:
        return constants_that_arrive(self._model)

    def _own_revision(self, loaded_with: Mapping[str, Any]) -> list[str]:
        """What is to be said where the run's model is at a revision, such as a checkpoint, and the
        SAE does not say which it was trained on."""
        revision = self._config.revision
        if revision in (None, "main") or loaded_with.get("revision") is not None:
            return []
        return [
            f"measured on the model's revision {revision}; it does not say which it was trained "
            f"on, which is the main one then, as a rule"
        ]

    def _other_weights(self, key: str, value: Any, location: str) -> list[str]:
        config, identity = self._config, self._model.identity
        if key == "revision" and value in (config.revision or "main", identity.revision):
            return []
        said = f"trained on the model with {key} = {value!r}"
        is_local = config.model == EMBEDDED or Path(config.model).is_dir()
        if key == "revision" and is_local and identity.revision is None:
            return [f"{said}; which one the local directory holds is not known"]
        if config.allow_other_model:
            return [f"{said}, and measured on another (allow_other_model)"]
        raise UsageError(
            f"the SAE {location} was {said}, and that is not the model of this run. Give that with "
            f"--revision, choose other SAEs, or give --allow-other-model to measure this one."
        )


def _refused(location: str, said: str, because: str) -> UsageError:
    return UsageError(
        f"the SAE {location} was trained on a model that was loaded with {said}, {because}. Choose "
        f"other SAEs. If you know that it makes no difference, take it out of "
        f"model_from_pretrained_kwargs in the SAE's cfg.json."
    )
