"""Whether the mask of a trie lets tokens see what the model's own masks let them see: compared in
every layer when the model is loaded, with its windows made small, as a short text shows none."""

import contextlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from streamer.computing.model.native import NativeForward

WINDOW, LENGTH = 3, 8
"""Tokens that are seen through a window in the comparison, and those of its text."""
WINDOWS = re.compile(r"window|chunk")
"""In names of settings that limit how far a token sees."""


def masks_agree(forward: NativeForward, device: torch.device) -> bool:
    """Whether a row without branches, given a trie's mask, is masked in every layer as the model
    masks it itself."""
    tokens = torch.zeros((1, LENGTH), dtype=torch.int64, device=device)
    depths = torch.arange(LENGTH, device=device)[None]
    ends = torch.full_like(depths, LENGTH)
    with _small_windows(forward.module.config):
        own, given = (_masks(forward, tokens, depths, each) for each in (None, ends))
    return all(torch.equal(a, b) for a, b in zip(own, given, strict=True))


def _masks(
    forward: NativeForward,
    tokens: Int[Tensor, "1 position"],
    depths: Int[Tensor, "1 position"],
    ends: Int[Tensor, "1 position"] | None,
) -> list[Bool[Tensor, "query key"]]:
    """What each layer is told to see."""
    seen: list[Tensor] = []

    def keep(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = inspect.signature(layer.forward).bind(*args, **kwargs).arguments
        mask = given.get("attention_mask", given.get("kwargs", {}).get("attention_mask"))
        seen.append(_as_seen(mask))

    with contextlib.ExitStack() as hooked, torch.inference_mode():
        for layer in forward.layers:
            hooked.enter_context(layer.register_forward_pre_hook(keep, with_kwargs=True))
        forward(forward.module, tokens, depths, ends, depths[0, -1:])
    return seen


def _as_seen(mask: Tensor | None) -> Bool[Tensor, "query key"]:
    """`mask` as booleans: it may be absent, or numbers to be added to the scores."""
    if mask is None:
        return torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    mask = mask.cpu().expand(1, -1, -1, -1)[0, 0]
    return mask if mask.dtype == torch.bool else mask >= 0


@contextlib.contextmanager
def _small_windows(config: Any) -> Iterator[None]:
    """While it is entered, every window that `config` has is `WINDOW` long."""
    settings = {
        name: WINDOW
        for name, value in config.to_dict().items()
        if WINDOWS.search(name) and isinstance(value, int) and value > WINDOW
    }
    before = {name: getattr(config, name) for name in settings}
    for name, value in settings.items():
        setattr(config, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)
