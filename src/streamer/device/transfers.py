"""Between host and device: through pinned memory and a stream of its own where there is one."""

import functools

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Shaped
from torch import Tensor


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> Shaped[Tensor, "..."]:
    """`array` on `device`; the host does not wait for it to arrive."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class ToHost:
    """A tensor on its way to the host, while the device goes on with other work."""

    def __init__(self, tensor: Shaped[Tensor, "..."]) -> None:
        self._arrived: torch.cuda.Event | None = None
        if tensor.device.type != "cuda":
            self._host = tensor.cpu()
            return
        stream = _copy_stream(tensor.device)
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        with torch.cuda.stream(stream):
            self._host.copy_(tensor, non_blocking=True)
            tensor.record_stream(stream)
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._arrived.record(stream)

    def wait(self) -> Shaped[Tensor, "..."]:
        """It, once it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
