"""The Hugging Face module itself: only the layers that are read, attention as fast as it has it."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from streamer.computing.model.architecture import Architecture, quiet, refuse_missing
from streamer.device.loading import straight_onto

PER_LAYER = ("layer_types",)
"""Settings that are a list with an entry a layer."""


class NativeForward:
    """The decoder layers up to the last hook, with the hooks on them."""

    name = "native"

    def __init__(self, module: nn.Module, architecture: Architecture) -> None:
        """:raises AttributeError: the adapter's path to the layers does not lead there."""
        assert architecture.taps is not None
        self.module = module
        self._config: Any = module.config
        self._taps = architecture.taps
        self._read_at: Int[Tensor, " read"] = torch.empty(0, dtype=torch.int64)
        self._found: dict[int, Float[Tensor, "read d_model"]] = {}
        self._hook(module, architecture)

    @property
    def counts_positions(self) -> bool:
        """Whether what some layer sees depends on positions in the row, other than through the mask
        that is given to it: branches stand farther apart there than they are."""
        types = {*(getattr(self._config, "layer_types", None) or ())}
        others = types - {"full_attention", "sliding_attention"}
        return bool(others) or "local" in (getattr(self._config, "attention_layers", None) or ())

    def _hook(self, module: nn.Module, architecture: Architecture) -> None:
        """Keep what passes through the layers; a copy of the module has the same hooks."""
        prefix = f"{module.base_model_prefix}."
        layers: Any = module.get_submodule(architecture.layers_path.removeprefix(prefix))
        for index, tap in enumerate(self._taps):
            if tap.is_input:
                layers[tap.layer].register_forward_pre_hook(
                    lambda _, args, kwargs, index=index: self._keep(
                        index, args[0] if args else kwargs["hidden_states"]
                    ),
                    with_kwargs=True,
                )
            else:
                layers[tap.layer].register_forward_hook(
                    lambda _, __, output, index=index: self._keep(
                        index, output[0] if isinstance(output, tuple) else output
                    )
                )

    def _keep(self, index: int, hidden: Tensor) -> None:
        self._found[index] = hidden.flatten(0, 1)[self._read_at]

    def __call__(
        self,
        module: nn.Module,
        tokens: Int[Tensor, "row position"],
        depths: Int[Tensor, "row position"],
        ends: Int[Tensor, "row position"] | None,
        read_at: Int[Tensor, " read"],
    ) -> Float[Tensor, "layer read d_model"]:
        """What the hooks read at `read_at`, which index the flattened rows. `ends` (see
        `PackedTokens`) only for rows with branches."""
        self._read_at = read_at
        self._found.clear()
        how: dict[str, Any] = {}
        if ends is not None:
            how = {"position_ids": depths, "attention_mask": self._mask(depths, ends)}
        module(input_ids=tokens, use_cache=False, **how)  # no layer behind the last hook is loaded
        return torch.stack([self._found[index] for index in range(len(self._taps))])

    def _mask(self, depths: Int[Tensor, "row position"], ends: Int[Tensor, "row position"]) -> Any:
        """The mask of a trie, in the form that the architecture takes: one for all layers, or one
        for each type of them."""
        at = torch.arange(ends.shape[1], device=ends.device)
        sees = (at[:, None] >= at) & (at[:, None] < ends[:, None, :])
        window = getattr(self._config, "sliding_window", None)
        near = sees
        if window is not None:
            near = sees & (depths[:, :, None] - window < depths[:, None, :])
        types = getattr(self._config, "layer_types", None)
        if types is not None and "sliding_attention" in types:
            return {
                "full_attention": self._as_attention_takes_it(sees),
                "sliding_attention": self._as_attention_takes_it(near),
            }
        slides = window is not None and getattr(self._config, "use_sliding_window", True)
        return self._as_attention_takes_it(near if slides and types is None else sees)

    def _as_attention_takes_it(self, sees: Bool[Tensor, "row query key"]) -> Tensor:
        """SDPA takes what is seen; eager attention adds a number to each score."""
        if self._config._attn_implementation != "eager":
            return sees[:, None]
        dtype = next(self.module.parameters()).dtype
        hidden = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
        return hidden.masked_fill_(~sees, torch.finfo(dtype).min)[:, None]


def load_native(
    architecture: Architecture, dtype: torch.dtype, device: torch.device, trust_remote_code: bool
) -> NativeForward:
    """The model's decoder layers as far as they are read, without the head, on `device`.

    :raises UsageError: its files lack weights.
    :raises Exception: whatever Hugging Face makes of a model that it cannot load in part.
    """
    assert architecture.taps is not None
    which = {"revision": architecture.revision, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(architecture.path, **which)
    config.num_hidden_layers = 1 + max(tap.layer for tap in architecture.taps)
    for name in PER_LAYER:
        if getattr(config, name, None) is not None:
            setattr(config, name, getattr(config, name)[: config.num_hidden_layers])
    with quiet():
        module, report = AutoModel.from_pretrained(
            architecture.path,
            config=config,
            dtype=dtype,
            use_safetensors=None if trust_remote_code else True,
            output_loading_info=True,
            device_map=straight_onto(device),
            **which,
        )
    refuse_missing(architecture.path, report["missing_keys"])
    module = module.to(device).eval().requires_grad_(False)
    return NativeForward(module, architecture)
