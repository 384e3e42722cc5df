"""Devices and number formats."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from streamer.errors import UsageError

DTYPES = {"float32": torch.float32, "float64": torch.float64}


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
        raise UsageError(f"{missing}: PyTorch {torch.__version__} sees only {here}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"{missing}, which has {torch.cuda.device_count()} CUDA device(s)")
    return device


def analysis_dtype(device: torch.device) -> torch.dtype:
    """The format of everything behind the SAE: float64, so that the small eigenvalue problems cost
    no digits; float32 on MPS, which has nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64


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
