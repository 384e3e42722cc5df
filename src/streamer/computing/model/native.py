"""The Hugging Face module itself: only the layers that are read, attention as fast as it has it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoModel

from streamer.computing.model.architecture import Architecture, quiet
from streamer.computing.model.text_part import model_part
from streamer.computing.model.weights import load_weights


class NoCache:
    """Stands where Hugging Face may have a cache of keys and values, and keeps none.

    Without a cache, Hugging Face asks the device in every forward pass whether a row's positions
    are those of several texts, and waits for the answer; with one, it takes them for one text's.
    """

    is_compileable = False

    def get_seq_length(self, layer: int = 0) -> int:  # noqa: ARG002
        """How many positions are cached."""
        return 0

    get_query_offset = get_seq_length

    def get_mask_sizes(self, positions: int, layer: int = 0) -> tuple[int, int]:  # noqa: ARG002
        """How many keys `positions` see, and where they begin."""
        return positions, 0

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What attention reads: the new keys and values, and nothing before them."""
        return keys, values


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
        prefix = f"{module.base_model_prefix}."
        layers: Any = module.get_submodule(architecture.layers_path.removeprefix(prefix))
        self.layers: nn.ModuleList = layers
        """The decoder layers, as many as are loaded."""
        self._asks = True
        """Whether Hugging Face may ask the device about rows without branches."""
        self._hook()

    @property
    def counts_positions(self) -> bool:
        """Whether what some layer sees depends on positions in the row, other than through the mask
        that is given to it: branches stand farther apart there than they are."""
        types = {*(getattr(self._config, "layer_types", None) or ())}
        others = types - {"full_attention", "sliding_attention"}
        return bool(others) or "local" in (getattr(self._config, "attention_layers", None) or ())

    @contextlib.contextmanager
    def without_asking(self) -> Iterator[Callable[[], object]]:
        """While it is entered, Hugging Face does not ask the device about rows without branches,
        for whose answers it would wait: whether they are of one text each (see `NoCache`), and
        whether they have padding. Yields a function that lets it stay so."""
        with contextlib.ExitStack() as undo:
            pad = getattr(self._config, "pad_token_id", None)
            undo.callback(setattr, self._config, "pad_token_id", pad)
            undo.callback(setattr, self, "_asks", True)
            self._config.pad_token_id, self._asks = None, False
            yield undo.pop_all

    def _hook(self) -> None:
        """Keep what passes through the layers; a copy of the module has the same hooks."""
        for index, tap in enumerate(self._taps):
            if tap.is_input:
                self.layers[tap.layer].register_forward_pre_hook(
                    lambda _, args, kwargs, index=index: self._keep(
                        index, args[0] if args else kwargs["hidden_states"]
                    ),
                    with_kwargs=True,
                )
            else:
                self.layers[tap.layer].register_forward_hook(
                    lambda _, __, output, index=index: self._keep(
                        index, output[0] if isinstance(output, tuple) else output
                    )
                )

    def _keep(self, index: int, hidden: Tensor) -> None:
        if hidden.ndim != 3:  # such as Gemma 3n's, four streams side by side
            raise ValueError(f"it has {hidden.ndim} axes, not row, position and d_model")
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
        elif not self._asks:
            how = {"past_key_values": NoCache()}
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
    path, revision = architecture.path, architecture.revision
    number = 1 + max(tap.layer for tap in architecture.taps)

    def load(*, whole: bool = False) -> nn.Module:
        part = model_part(path, revision=revision, trust_remote_code=trust_remote_code)
        # layers that share keys and values are counted from the last one
        if not whole and not getattr(part.config, "num_kv_shared_layers", None):
            keep_layers(part.config, number)
        with quiet():
            return load_weights(
                AutoModel,
                path,
                device=device,
                trust_remote_code=trust_remote_code,
                revision=revision,
                config=part.config,
                dtype=dtype,
                key_mapping=part.key_mapping,
            )

    try:
        module = load()
    except RuntimeError:  # one weight has something for every layer, as Gemma 4's small models have
        module = load(whole=True)
    forward = NativeForward(module.to(device).eval().requires_grad_(False), architecture)
    del forward.layers[number:]
    return forward


def keep_layers(config: Any, number: int) -> None:
    """Make `config` that of the same model's first `number` layers."""
    whole = config.num_hidden_layers
    for name, setting in config.to_dict().items():
        if isinstance(setting, list) and len(setting) == whole:  # an entry a layer
            setattr(config, name, setting[:number])
    config.num_hidden_layers = number
