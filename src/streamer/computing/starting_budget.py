"""The budget that a run begins with, for its model, its device and the memory that is free."""

import math

from streamer.computing.model.language_model import LanguageModel
from streamer.config import RunConfig
from streamer.device.memory import free_memory, memory, trim_heap
from streamer.device.traits import Traits, traits_of
from streamer.planning.budget import Budget, Headroom

FIXED_TOKENS = 4096
"""Of a deterministic run."""
START_SHARE = 0.02
"""At most, of the free memory in the first batches."""
NUMBERS_A_POSITION = 64
"""Numbers of the residual stream's width that a position holds at once, by and large: the MLP's
three of four or more times that width, queries, keys, values and scores, SAE activations."""


def budget_for(config: RunConfig, model: LanguageModel) -> Budget:
    """Found while running, up to what is configured; or just that, of a deterministic run."""
    if config.deterministic:
        return Budget(config.max_tokens or FIXED_TOKENS, records=config.batch_size)
    trim_heap()  # else batches could use what loading has freed, and seem to need nothing
    before = memory(model.device)

    def headroom() -> Headroom:
        now = memory(model.device)
        if now.device_peak is None or before.device is None:
            return Headroom(now.process_peak - before.process, free_memory(model.device))
        return Headroom(now.device_peak - before.device, free_memory(model.device))

    traits = traits_of(model.device)
    most = config.max_tokens or traits.most_tokens
    layers = max(config.layers) + 1
    start = start_tokens(traits, model.d_model, layers, free_memory(model.device))
    return Budget(min(start, most), most, records=config.batch_size, headroom=headroom)


def start_tokens(traits: Traits, d_model: int, layers: int, free: int) -> int:
    """Positions of the first batches, a power of two: few enough that they are soon done and need
    little of the `free` bytes. A layer takes some 24·d_model² FLOPs a position."""
    by_work = traits.start_flops / (24 * d_model**2 * layers)
    by_memory = START_SHARE * free / (NUMBERS_A_POSITION * d_model * 4)
    fit = max(16.0, min(traits.start_tokens, by_work, by_memory))
    return int(2 ** math.floor(math.log2(fit)))
