"""Devices and number formats."""

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
from streamer.errors import UsageError

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SHORT = (torch.bfloat16, torch.float16)
"""Formats in which a residual can be wrong where float32 is not."""


def pick_device(name: str) -> torch.device:
    """The device that `name` means; `auto` is cuda where there is one, else mps, else cpu.

    :raises UsageError: there is no such device here.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in has if has[kind])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"device {name!r} is unknown: use auto, cpu, cuda, cuda:0 or mps"
        ) from None
    missing = f"device {name!r} is not on this machine"
    if not has.get(device.type, False):
        here = ", ".join(kind for kind in has if has[kind])
        raise UsageError(
            f"{missing}: PyTorch {torch.__version__} sees only {here}. Choose with --device"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"{missing}, which has {torch.cuda.device_count()} CUDA device(s)")
    return device


def pick_autocast(config: RunConfig, device: torch.device) -> tuple[torch.dtype | None, str]:
    """The format of the model's matrix products if it is another than the weights', and what to
    tell the user about it, if anything."""
    if not (config.fp16 or config.bf16):
        return None, ""
    if device.type != "cpu":
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


def analysis_dtype(device: torch.device) -> torch.dtype:
    """The format of everything behind the SAE: float64, so that the small eigenvalue problems cost
    no digits; float32 on MPS, which has nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64


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


@contextlib.contextmanager
def in_float32(module: nn.Module) -> Iterator[None]:
    """While it is entered, the weights of `module` are float32. From a shorter format and back,
    that loses nothing."""
    formats = [parameter.dtype for parameter in module.parameters()]
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.float32)
    try:
        yield
    finally:
        for parameter, dtype in zip(module.parameters(), formats, strict=True):
            parameter.data = parameter.data.to(dtype)


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
