"""Between host and device: through pinned memory and a stream of its own where there is one."""

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from streamer.device.traits import traits_of


def to_device(
    arrays: Sequence[npt.NDArray[np.int64]], device: torch.device
) -> list[Int[Tensor, "..."]]:
    """Each of `arrays` on `device`, in one copy together; the host does not wait for it.

    Every copy costs the host some ten microseconds, whatever its size.
    """
    if traits_of(device).is_host:
        return [torch.from_numpy(array) for array in arrays]
    together = _staging(sum(array.size for array in arrays), torch.int64, device)
    np.concatenate([array.reshape(-1) for array in arrays], out=together.numpy())
    parts = torch.split_with_sizes(_sent(together, device), [array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def numbers_to_device(
    tensors: Sequence[Shaped[Tensor, "..."]], device: torch.device
) -> list[Shaped[Tensor, "..."]]:
    """The same with the host's tensors of one format, that the device has."""
    if traits_of(device).is_host:
        return list(tensors)
    together = _staging(sum(one.numel() for one in tensors), tensors[0].dtype, device)
    torch.cat([one.reshape(-1) for one in tensors], out=together)
    parts = torch.split_with_sizes(_sent(together, device), [one.numel() for one in tensors])
    return [part.view(one.shape) for part, one in zip(parts, tensors, strict=True)]


class ToHost:
    """A tensor on its way to the host, while the device goes on with other work.

    The tensor must not be written to before it has arrived.
    """

    def __init__(self, tensor: Shaped[Tensor, "..."]) -> None:
        self._arrived: torch.cuda.Event | None = None
        traits = traits_of(tensor.device)
        if traits.is_host or not traits.runs_ahead:
            self._host = tensor.cpu()  # waits for all that the device was given
            return
        stream = _copy_stream(tensor.device)
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        with torch.cuda.stream(stream):
            self._host.copy_(tensor, non_blocking=True)
            tensor.record_stream(stream)
            # blocking: a thread that waits sleeps, and leaves its core to those that work
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._arrived.record(stream)

    def __len__(self) -> int:
        return len(self._host)

    def wait(self) -> Shaped[Tensor, "..."]:
        """It, once it is there. Any thread may wait for it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host


def _staging(count: int, dtype: torch.dtype, device: torch.device) -> Shaped[Tensor, " count"]:
    """Memory of the host that `device` copies from by itself, if it can."""
    return torch.empty(count, dtype=dtype, pin_memory=traits_of(device).runs_ahead)


def _sent(staged: Shaped[Tensor, " count"], device: torch.device) -> Shaped[Tensor, " count"]:
    """On MPS the copy is waited for: from memory that is not pinned it would still be read when
    it is given back."""
    return staged.to(device, non_blocking=traits_of(device).runs_ahead)


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
