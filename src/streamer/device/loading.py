"""How weights come onto a device."""

import torch

from streamer.device.traits import traits_of


def straight_onto(device: torch.device) -> dict[str, torch.device] | None:
    """The `device_map` with which Hugging Face reads each weight straight onto `device`; None for
    the host. Without it, the host's memory holds the whole model first, and may be too small."""
    return None if traits_of(device).is_host else {"": device}
