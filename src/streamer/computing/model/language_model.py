"""The transformer: which forward pass runs it, in which format, and whether rows may be packed."""

import contextlib
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from streamer.batches import PackedTokens
from streamer.computing.model.architecture import Architecture, cannot_load, read_architecture
from streamer.computing.model.bridge import BridgeForward, load_bridge
from streamer.computing.model.content import hashing
from streamer.computing.model.find import first_line
from streamer.computing.model.load_check import (
    reason_against_tries,
    refuse_looking_ahead,
    stop_asking,
)
from streamer.computing.model.native import NativeForward, load_native
from streamer.computing.model.precision import (
    DTYPES,
    SHORT,
    KeepDouble,
    in_float32,
    pick_autocast,
    with_short_weights,
)
from streamer.config import RunConfig, Sharing
from streamer.device.errors import is_out_of_memory
from streamer.device.transfers import to_device
from streamer.errors import UsageError
from streamer.planning.packing import Packing, Passage

ROW_LENGTH = 128
"""Most positions of a packed row: see `bench/results/row_length.json`."""
APART = 32
"""Passages run at once when they are run apart."""


class LanguageModel:
    """A causal transformer that is read at its hooks, one position a passage.

    It belongs to one device, and to one thread at a time.
    """

    def __init__(
        self,
        forward: NativeForward | BridgeForward,
        architecture: Architecture,
        device: torch.device,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.identity = architecture.identity
        self.content: str | None = None
        """A hash of all files in a local directory that decide numbers."""
        self.tokenizer = architecture.tokenizer.fast
        self.tokenizer_files = architecture.tokenizer.files
        self.tokenizer_is_transformers = architecture.tokenizer.is_transformers
        self.context = architecture.context
        self.d_model = architecture.d_model
        self.n_layers = architecture.n_layers
        self.hook_names = architecture.hook_names
        self.hook_aliases = architecture.hook_aliases
        self.device = device
        self.dtype = next(forward.module.parameters()).dtype
        self.autocast: torch.dtype | None = None
        """The format of the matrix products, if another than `dtype`."""
        self.forward = forward.name
        self._run = forward
        self._fast = forward.module
        self.vocabulary = _embedded_tokens(forward.module)
        """How many token ids it knows."""
        self.sharing: Sharing = "prefix"
        """The most that it takes: "trie" where packed rows agree with passages alone."""
        one = Packing("none", 1).pack_passages([(0,)])
        self.width = self.residuals(one).shape[-1]
        """Of what the hooks read."""
        self.notes: list[str] = []
        """What the user should know about how it runs."""
        refuse_looking_ahead(self, forward.module)
        if isinstance(forward, NativeForward):
            stop_asking(self, forward)
            against = reason_against_tries(self, forward)
            if against:
                self.notes.append(f"no tries: {against}")
            else:
                self.sharing = "trie"
        # only now: the check above is exact in float32, and in a shorter format is not
        self.autocast = autocast
        if autocast is not None and isinstance(forward, NativeForward):
            self._fast = with_short_weights(forward.module, autocast)

    @property
    def is_short(self) -> bool:
        """Whether it computes in a format in which residuals may overflow."""
        return self.autocast is not None or self.dtype in SHORT

    @property
    def embedding(self) -> torch.nn.Module:
        """Where token ids become vectors, in the weights' own format."""
        return cast(torch.nn.Module, self._run.module.get_input_embeddings())  # type: ignore[operator]

    @property
    def d_mlp(self) -> int:
        """Width of the MLP's hidden layer; four times d_model where the model does not say."""
        return self._largest("intermediate_size") or 4 * self.d_model

    @property
    def scores_a_pair(self) -> int:
        """How many scores attention lays out for a pair of positions: one a head; none where it is
        SDPA's own business."""
        config: Any = self._run.module.config
        if self.forward == "native" and config._attn_implementation != "eager":
            return 0
        return self._largest("num_attention_heads") or 1

    def _largest(self, name: str) -> int:
        """What Hugging Face's configuration says of that name, of all layers the most; 0 if it has
        none."""
        config: Any = self._run.module.config
        found = getattr(config.get_text_config(), name, None) or 0
        return max(found) if isinstance(found, list | tuple) else int(found)

    def residuals(
        self, rows: PackedTokens, on_device: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "layer passage width"]:
        """The hooked activation of every layer at each passage's last token. `on_device` are the
        arrays of `rows`, if they are there already. Does not wait for the device, unless the
        architecture's own code does.

        Runs no layer behind the last hook, and no unembedding.
        """
        cast: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if self.autocast is not None:
            cast = torch.autocast(self.device.type, self.autocast)
        elif self.dtype == torch.float64:
            cast = KeepDouble()
        with torch.inference_mode(), cast:
            return self._read(self._fast, rows, on_device)

    def residuals_apart(self, passages: Sequence[Passage]) -> Float[Tensor, "layer passage width"]:
        """The same of each passage in a row of its own, and in float32 where batches are shorter.

        In a shared row one token's overflow reaches the others: no weight at all times infinity is
        not a number.
        """
        found = [
            self._residuals_in_float32(Packing("none", 1).pack_passages(passages[at : at + APART]))
            for at in range(0, len(passages), APART)
        ]
        return torch.cat(found, dim=1)

    def _residuals_in_float32(self, rows: PackedTokens) -> Float[Tensor, "layer passage width"]:
        if not self.is_short:
            return self.residuals(rows)
        module = self._run.module
        raised = in_float32(module) if self.dtype in SHORT else contextlib.nullcontext()
        with torch.inference_mode(), raised:
            return self._read(module, rows)

    def _read(
        self,
        module: torch.nn.Module,
        rows: PackedTokens,
        on_device: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """:raises IndexError: a token is unknown to the model. Raised here, on the host: on CUDA
        the look-up would end the whole process' use of the device."""
        largest = int(rows.tokens.max())
        if largest >= self.vocabulary:
            raise IndexError(
                f"token {largest} is not among the {self.vocabulary} that the model embeds"
            )
        tokens, depths, ends, read_at = on_device or to_device(rows.arrays, self.device)
        return self._run(module, tokens, depths, ends if rows.branches else None, read_at)


def _embedded_tokens(module: torch.nn.Module) -> int:
    """How many token ids `module` knows. The tokenizer may have more, or fewer."""
    embedding: Any = module.get_input_embeddings()  # type: ignore[operator]
    return int(embedding.weight.shape[0])


def load_language_model(path: str, config: RunConfig, device: torch.device) -> LanguageModel:
    """The model at `path` on `device`, hooked at the configured layers.

    Weights come from safetensors, and no code of the model's own is run, unless
    `trust_remote_code` allows it.

    :raises UsageError: it cannot be loaded, lacks a layer or the hook, or is not to be run as
        `forward` says.
    """
    architecture = read_architecture(path, config)
    autocast, slow = pick_autocast(config, device)
    with hashing([path]) as hashes:
        forward, because = _load(architecture, config, device)
        model = _tried(forward, architecture, device, autocast)
        (model.content,) = hashes()
    model.notes += [note for note in (because, slow, architecture.context_note) if note]
    model.notes += architecture.tokenizer.notes
    return model


def _tried(
    forward: NativeForward | BridgeForward,
    architecture: Architecture,
    device: torch.device,
    autocast: torch.dtype | None,
) -> LanguageModel:
    """The model, which has read random tokens.

    :raises UsageError: it could not.
    """
    try:
        return LanguageModel(forward, architecture, device, autocast)
    except UsageError:
        raise
    except Exception as error:  # a hook that has no row and position first, or little memory
        if is_out_of_memory(error):
            raise UsageError(
                f"the model {architecture.path} leaves no memory on {device} to run it. Choose a "
                f"smaller one, another --device, or --dtype bfloat16."
            ) from error
        raise UsageError(
            f"{', '.join(architecture.hook_names)} cannot be read a position at a time: "
            f"{first_line(error)}. Choose another with --hook."
        ) from error


def _load(
    architecture: Architecture, config: RunConfig, device: torch.device
) -> tuple[NativeForward | BridgeForward, str]:
    """The forward pass, and why it is not the native one where that was not the hook's doing."""
    because = ""
    where = (architecture, DTYPES[config.dtype], device, config.trust_remote_code)
    if config.forward != "bridge" and architecture.taps is not None:
        try:
            return load_native(*where), ""
        except UsageError:
            raise
        except Exception as error:  # whatever Hugging Face makes of half a model
            if config.forward == "native":
                raise cannot_load(architecture.path, error) from error
            because = f"through TransformerLens' bridge: natively, {first_line(error)}"
    elif config.forward == "native":
        raise UsageError(
            f"forward = 'native' reads between decoder layers only, and {config.hook} is inside "
            f"one. Leave forward out, or choose another hook."
        )
    try:
        return load_bridge(*where), because
    except UsageError:
        raise
    except Exception as error:  # whatever a damaged or strange model makes of the libraries
        raise cannot_load(architecture.path, error) from error
