"""What the kinds of device are like. Whoever must know asks for a trait, never for the kind."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a kind of device can do, and how much of it at once."""

    is_host: bool = False
    """Whether it is the processor that runs Python: it works with the host's threads, out of the
    host's memory."""
    runs_ahead: bool = False
    """Whether it is given a batch before the last one is waited for, and has events to wait for."""
    analysis: torch.dtype = torch.float64
    """What everything behind the SAE is computed in there: float64, so that small differences cost
    no digits, where the device has it."""
    has_float16: bool = True
    """Whether products in float16 are faster there."""
    most_tokens: int
    """Positions of a batch beyond which it gains nothing that the memory is worth."""
    start_tokens: int
    """Positions with which a small model already runs about as fast as it can."""
    start_flops: float
    """In a first batch: a few seconds on the slowest device of the kind."""
    gathered: int = 2**27
    """Most numbers of decoder rows worked on at once: an accelerator wants much at once."""


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
    """What `device` is like."""
    return TRAITS[device.type]
