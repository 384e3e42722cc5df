"""Residual streams of packed rows and of single texts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch.utils.hooks import RemovableHandle
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from streamer.embedded import LAYERS
from training.corpus import Rows
from training.model import document_masks, positions


@contextmanager
def capture(model: Gemma2ForCausalLM) -> Iterator[dict[int, torch.Tensor]]:
    """While open, each forward pass leaves every layer's output [B, S, d_model] in the dict.

    A layer's output is what TransformerLens calls `blocks.{layer}.hook_resid_post`.
    """
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> RemovableHandle:
        def hook(_module: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
            seen[layer] = output

        block: torch.nn.Module = model.model.layers[layer]
        return block.register_forward_hook(hook)

    handles = [keep(layer) for layer in LAYERS]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def packed_residuals(
    model: Gemma2ForCausalLM, rows: Rows, bos: int
) -> dict[int, Float[torch.Tensor, "token d_model"]]:
    """Residuals of all real tokens but BOS, whose norm is far from all others'."""
    parts: dict[int, list[torch.Tensor]] = {layer: [] for layer in LAYERS}
    for start in range(0, len(rows.tokens), 16):
        owner = rows.document[start : start + 16]
        tokens = torch.from_numpy(rows.tokens[start : start + 16])
        document = torch.from_numpy(owner)
        wanted = (document >= 0) & (tokens != bos)
        with capture(model) as seen:
            model.model(
                input_ids=tokens,
                attention_mask=document_masks(document),
                position_ids=positions(owner),
                use_cache=False,
            )
        for layer in LAYERS:
            parts[layer].append(seen[layer][wanted])
    return {layer: torch.cat(parts[layer]) for layer in LAYERS}


@torch.no_grad()
def last_residuals(
    model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> dict[int, Float[torch.Tensor, "text d_model"]]:
    """Residuals at the last token of each text, one text at a time."""
    parts: dict[int, list[torch.Tensor]] = {layer: [] for layer in LAYERS}
    for text in texts:
        with capture(model) as seen:
            model.model(**tokenizer(text, return_tensors="pt"), use_cache=False)
        for layer in LAYERS:
            parts[layer].append(seen[layer][0, -1])
    return {layer: torch.stack(parts[layer]) for layer in LAYERS}
