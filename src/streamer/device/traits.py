"""What the kinds of device can do. Code asks for a trait, never for the kind."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a kind of device can do, and how much of it at once."""

    is_host: bool = False
    """Whether it is the processor that runs Python: it works with the host's threads, out of the
    host's memory."""
    runs_ahead: bool = False
    """Whether a batch is launched before the last one has finished, and it has events."""
    analysis: torch.dtype = torch.float64
    """Format for everything after the SAE: float64 if the device has it, so that small differences
    lose no digits."""
    has_float16: bool = True
    """Whether products in float16 are faster there."""
    most_tokens: int
    """Positions of a batch beyond which more memory gains no speed."""
    start_tokens: int
    """Positions at which a small model already runs about as fast as it can."""
    start_flops: float
    """Operations of a first batch: a few seconds on the slowest device of the kind."""
    gathered: int = 2**27
    """Most numbers in decoder rows gathered at once: an accelerator needs large operations."""


TRAITS = {
    "cpu": Traits(
        is_host=True,
        has_float16=False,
        most_tokens=2**13,
        start_tokens=4096,
        start_flops=4e11,
        gathered=2**20,  # 4 MB in float32, which caches hold
    ),
    "mps": Traits(
        analysis=torch.float32,  # it has nothing wider
        most_tokens=2**16,
        start_tokens=4096,
        start_flops=2e12,
    ),
    "cuda": Traits(
        runs_ahead=True,
        most_tokens=2**18,
        start_tokens=16_384,
        start_flops=2e13,
    ),
}
"""By the name of the kind, as torch calls it."""


def traits_of(device: torch.device) -> Traits:
    """The traits of `device`."""
    return TRAITS[device.type]
