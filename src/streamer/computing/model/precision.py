"""Number formats of the model's weights and products."""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from streamer.config import RunConfig
from streamer.device.memory import free_memory
from streamer.device.traits import traits_of

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SHORT = (torch.bfloat16, torch.float16)
"""Formats in which a residual can be wrong where float32 is not."""


def pick_autocast(config: RunConfig, device: torch.device) -> tuple[torch.dtype | None, str]:
    """The format of the model's matrix products if it is another than the weights', and what to
    tell the user about it, if anything."""
    if not (config.fp16 or config.bf16):
        return None, ""
    if traits_of(device).has_float16:
        return (torch.float16 if config.fp16 else torch.bfloat16), ""
    notes = ["a CPU has no fast float16: --fp16 runs in bfloat16 here"] if config.fp16 else []
    slower = _seconds(torch.bfloat16) / _seconds(torch.float32)
    if slower > 1:
        notes.append(
            f"bfloat16 products take {slower:.1f} times as long as float32 on this CPU, which has "
            f"no instructions for them: without --{'fp16' if config.fp16 else 'bf16'} it is faster"
        )
    return torch.bfloat16, "; ".join(notes)


def _seconds(dtype: torch.dtype) -> float:
    """Of a small matrix product, at best."""
    a = torch.ones(256, 1024, dtype=dtype)
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        a @ a.mT
        times.append(time.perf_counter() - begin)
    return min(times)


def sae_dtype(name: str) -> str:
    """The format of the SAEs beside a model whose weights are in the format `name`."""
    return "float64" if name == "float64" else "float32"


def with_short_weights(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of `module` whose matrix weights are in `dtype`; all else is shared with it.

    Under autocast to `dtype` it computes what `module` does, without converting every weight anew
    in every batch.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in module.parameters()}
    memo |= {id(tensor): tensor for tensor in module.buffers()}
    for layer in module.modules():
        if isinstance(layer, nn.Linear | Conv1D):
            weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
            memo[id(layer.weight)] = weight
    return copy.deepcopy(module, memo)


def fits_in_float32(module: nn.Module, device: torch.device) -> bool:
    """Whether half of the free memory of `device` holds the weights of `module` in float32, beside
    themselves."""
    return 4 * sum(weight.numel() for weight in module.parameters()) < free_memory(device) / 2


@contextlib.contextmanager
def in_float32(module: nn.Module) -> Iterator[None]:
    """While it is entered, the weights of `module` are float32.

    The weights themselves are kept meanwhile and put back, not converted back: that would want
    memory where it may just have run out, and leave a model of two formats behind.
    """
    kept = [(parameter, parameter.data) for parameter in module.parameters()]
    try:
        for parameter, data in kept:
            parameter.data = data.to(torch.float32)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


class KeepDouble(TorchFunctionMode):
    """Lets a float64 model stay float64.

    Hugging Face modules raise norms, attention weights and rotary angles to float32 whatever the
    model's format is, which in a float64 model lowers them. Under this mode they keep float64.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if any(isinstance(arg, torch.Tensor) and arg.dtype == torch.float64 for arg in args[:1]):
            if func is torch.Tensor.float:
                return args[0]
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)
