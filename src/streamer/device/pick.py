"""Which device a run gets, and the thread that owns it."""

import contextlib
from collections.abc import Iterator

import torch

from streamer.errors import UsageError

ON_A_MAC = (
    "device auto takes the CPU on this machine: streamer has not been run on Apple's GPU yet. "
    "--device mps tries it; `streamer verify --device mps` says whether its numbers hold"
)


def pick_device(name: str) -> tuple[torch.device, str]:
    """The device that `name` means, and what to tell the user about that, if anything.

    `auto` is cuda where there is one, else cpu. It takes no Apple GPU: what has never run there
    would measure what nobody has compared.

    :raises UsageError: there is no such device here.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        note = ON_A_MAC if has["mps"] and not has["cuda"] else ""
        return torch.device("cuda" if has["cuda"] else "cpu"), note
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
    return device, ""


@contextlib.contextmanager
def owned_by_this_thread(device: torch.device) -> Iterator[None]:
    """While it is entered, CUDA calls of this thread that name no device mean this one.

    A thread begins with device 0: pinning memory or recording an event there would make a context
    on a device that is another process's, and take some of its memory.
    """
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):  # unlike `set_device`, it makes no context when it leaves
        yield
