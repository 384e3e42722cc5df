"""TransformerLens' bridge: any of its hooks, any of its architectures; rows of one passage only."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.exceptions import StopAtLayerException
from transformer_lens.model_bridge.sources.transformers import (
    determine_architecture_from_hf_config,
    get_hf_model_class_for_architecture,
)
from transformers import AutoModelForCausalLM

from streamer.computing.model.architecture import Architecture, quiet
from streamer.computing.model.bridge_check import OwnOutput
from streamer.computing.model.text_part import ModelPart, model_part
from streamer.computing.model.tokenizer import stand_in
from streamer.computing.model.weights import load_weights
from streamer.errors import UsageError


class BridgeForward:
    """A booted bridge with hooks at the configured names."""

    name = "bridge"

    def __init__(self, bridge: Any, architecture: Architecture) -> None:
        self.module: nn.Module = bridge.original_model
        self._bridge = bridge
        self._names = architecture.hook_names
        self._read_at: Int[Tensor, " read"] = torch.empty(0, dtype=torch.int64)
        self._found: dict[str, Float[Tensor, "read width"]] = {}
        for name in self._names:
            bridge.add_hook(name, functools.partial(self._keep, name))

    def _keep(self, name: str, activation: Tensor, hook: Any) -> None:  # noqa: ARG002
        """`hook` is passed by name and unused: its own name is not always the one asked for."""
        self._found[name] = activation.flatten(0, 1)[self._read_at].flatten(1)
        if len(self._found) == len(self._names):
            raise StopAtLayerException(activation)  # the bridge's way to run no further: it catches

    def __call__(
        self,
        module: nn.Module,  # noqa: ARG002
        tokens: Int[Tensor, "row position"],
        depths: Int[Tensor, "row position"],
        ends: Int[Tensor, "row position"] | None,
        read_at: Int[Tensor, " read"],
    ) -> Float[Tensor, "layer read width"]:
        """What the hooks read at `read_at`, which index the flattened rows."""
        assert ends is None, "the bridge takes no tries"
        self._read_at = read_at
        self._found.clear()
        # Padding stands behind what is read, where causal attention does not see it.
        self._bridge(tokens, attention_mask=torch.ones_like(depths), return_type=None)
        return torch.stack([self._found[name] for name in self._names])


def load_bridge(
    architecture: Architecture, dtype: torch.dtype, device: torch.device, trust_remote_code: bool
) -> BridgeForward:
    """The whole model, booted as TransformerLens does.

    :raises UsageError: its files lack weights, it attends both ways, or the bridge does not run it
        as Hugging Face does.
    :raises Exception: whatever TransformerLens or Hugging Face make of the model.
    """
    path, revision = architecture.path, architecture.revision
    part = model_part(path, revision=revision, trust_remote_code=trust_remote_code)
    if getattr(part.config, "is_causal", True) is False:  # the bridge masks all the same
        raise UsageError(
            f"the model {path} is not causal (is_causal is false in its configuration): its tokens "
            f"attend to those after them. Choose a causal model."
        )
    own = OwnOutput(architecture)

    def load(kind: Any, **how: Any) -> nn.Module:
        model = load_weights(kind, path, device=device, trust_remote_code=trust_remote_code, **how)
        own.keep(model.eval())
        return model

    with quiet():
        bridge = TransformerBridge.boot_transformers(
            path,
            device=str(device),
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            revision=revision,
            tokenizer=stand_in(),
            **(_whole(part, load) if part.is_whole else _inside(part, load, dtype, revision)),
        )
    bridge.eval()
    # The bridge asks for attention maps and Hugging Face for a key-value cache; nobody reads them.
    bridge.original_model.config.output_attentions = False
    bridge.original_model.config.use_cache = False
    own.compare(bridge)
    return BridgeForward(bridge, architecture)


def _whole(part: ModelPart, load: Callable[..., nn.Module]) -> dict[str, Any]:
    """How the bridge makes Hugging Face's model: with the class that it would take itself, whose
    weights `load` reads."""
    real = get_hf_model_class_for_architecture(determine_architecture_from_hf_config(part.config))

    class Loaded:
        @staticmethod
        def from_pretrained(_: str, **how: Any) -> nn.Module:
            how.pop("trust_remote_code", None)  # `load` knows it, and gives it itself
            return load(real, **how)

    return {"model_class": Loaded}


def _inside(
    part: ModelPart, load: Callable[..., nn.Module], dtype: torch.dtype, revision: str | None
) -> dict[str, Any]:
    """The same of the text part of a larger model: it is handed to the bridge."""
    model = load(
        AutoModelForCausalLM,
        config=part.config,
        dtype=dtype,
        revision=revision,
        key_mapping=part.key_mapping,
        attn_implementation="eager",  # the bridge's hooks read attention maps
    )
    return {"hf_model": model}
