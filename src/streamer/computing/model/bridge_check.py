"""Whether TransformerLens' bridge gives what Hugging Face's own forward pass does.

The bridge computes parts of a layer anew, attention above all, and for some architectures not as
the model does: it may turn positions another way, or split a matrix into other heads. So a random
text runs through Hugging Face's model before the bridge takes its modules over, and again behind.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge.exceptions import StopAtLayerException

from streamer.computing.model.architecture import Architecture
from streamer.computing.model.precision import SHORT, fits_in_float32, in_float32
from streamer.errors import UsageError

LENGTH = 48
"""Tokens of the text."""
AGREEMENT, SHORT_AGREEMENT = 1e-4, 0.1
"""How far what the bridge gives may be from Hugging Face's, relative to its norm; the second where
no memory is left to compare in float32: of most tokens then, as one may go to another expert."""


class OwnOutput:
    """What Hugging Face's model puts out behind the last layer that is read, before it is bridged.

    It runs with the attention that Hugging Face takes for it by itself, not the "eager" one, which
    the bridge asks for: of Falcon's models with ALiBi that adds the bias twice.
    """

    def __init__(self, architecture: Architecture) -> None:
        layers = [re.match(r"blocks\.(\d+)\.", name) for name in architecture.hook_names]
        self._architecture = architecture
        self._layer = max((int(found[1]) for found in layers if found), default=None)
        self._right: Float[Tensor, "position d_model"] | None = None

    def keep(self, model: Any) -> None:
        """Run `model`, which is not bridged yet."""
        if self._layer is None:
            return
        layers: Any = model.get_submodule(self._architecture.layers_path)
        found: list[Tensor] = []
        handle = layers[self._layer].register_forward_hook(
            lambda _, __, output: found.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            with torch.inference_mode(), _exact(model), _own_attention(model):
                model(input_ids=self._tokens(model))
        finally:
            handle.remove()
        self._right = found[0][0].cpu().double()

    def compare(self, bridge: Any) -> None:
        """Return if `bridge` puts out the same.

        :raises UsageError: it does not.
        """
        if self._right is None:
            return
        model = bridge.original_model
        found: list[Tensor] = []

        def keep(activation: Tensor, hook: Any) -> None:  # noqa: ARG001
            found.append(activation)
            raise StopAtLayerException(activation)

        tokens = self._tokens(model)
        with torch.inference_mode(), _exact(model) as is_exact:
            bridge.run_with_hooks(
                tokens,
                return_type=None,
                attention_mask=torch.ones_like(tokens),
                fwd_hooks=[(f"blocks.{self._layer}.hook_out", keep)],
            )
        apart = (found[0][0].cpu().double() - self._right).norm(dim=-1) / self._right.norm(dim=-1)
        far = float(apart.max() if is_exact else apart.median())
        if not far <= (AGREEMENT if is_exact else SHORT_AGREEMENT):
            raise UsageError(
                f"TransformerLens' bridge does not run the model "
                f"{self._architecture.identity.name} as Hugging Face does: behind layer "
                f"{self._layer} it is {far:.1e} of the residual's norm away. So nothing can be "
                f"read inside its layers. Choose a hook between them, such as "
                f"blocks.{{layer}}.hook_resid_post, and leave forward out: that is read without "
                f"the bridge."
            )

    @staticmethod
    def _tokens(model: Any) -> Int[Tensor, "1 position"]:
        embedding = model.get_input_embeddings().weight
        generator = torch.Generator().manual_seed(0)
        length = min(LENGTH, getattr(model.config, "max_position_embeddings", None) or LENGTH)
        tokens = torch.randint(len(embedding), (1, length), generator=generator)
        return tokens.to(embedding.device)


@contextlib.contextmanager
def _own_attention(model: Any) -> Iterator[None]:
    """While it is entered, `model` has SDPA if it can, and keeps no attention maps, which Falcon
    makes in another way."""
    config = model.config
    asked_for = config._attn_implementation, config.output_attentions
    config.output_attentions = False
    if getattr(model, "_supports_sdpa", False):
        config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        config._attn_implementation, config.output_attentions = asked_for


@contextlib.contextmanager
def _exact(model: Any) -> Iterator[bool]:
    """While it is entered, `model` computes in float32 or better, if memory allows: whether."""
    short = next(model.parameters()).dtype in SHORT
    fits = not short or fits_in_float32(model, next(model.parameters()).device)
    with in_float32(model) if short and fits else contextlib.nullcontext():
        yield fits
