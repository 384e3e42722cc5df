"""TransformerLens' bridge: any of its hooks, any of its architectures; rows of one passage only."""

import functools
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

from streamer.computing.model.architecture import Architecture, quiet, refuse_missing
from streamer.device.loading import straight_onto


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

    :raises UsageError: its files lack weights.
    :raises Exception: whatever TransformerLens or Hugging Face make of the model.
    """
    with quiet():
        bridge = TransformerBridge.boot_transformers(
            architecture.path,
            device=str(device),
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            revision=architecture.revision,
            model_class=_onto(device, architecture, safetensors_only=not trust_remote_code),
        )
    bridge.eval()
    # The bridge asks for attention maps and Hugging Face for a key-value cache; nobody reads them.
    bridge.original_model.config.output_attentions = False
    bridge.original_model.config.use_cache = False
    return BridgeForward(bridge, architecture)


def _onto(device: torch.device, architecture: Architecture, *, safetensors_only: bool) -> Any:
    """The class that the bridge would take, made to put weights on `device` one by one, to make up
    none, and to read no pickles if `safetensors_only`."""
    real = get_hf_model_class_for_architecture(
        determine_architecture_from_hf_config(architecture.config)
    )

    class StraightOnto:
        @staticmethod
        def from_pretrained(name: str, **kwargs: Any) -> Any:
            model, report = real.from_pretrained(
                name,
                use_safetensors=True if safetensors_only else None,
                output_loading_info=True,
                device_map=straight_onto(device),
                **kwargs,
            )
            refuse_missing(name, report["missing_keys"])
            return model

    return StraightOnto
