"""The budget that a run begins with, for its model, its SAEs, its device and the free memory."""

import math
from collections.abc import Sequence

from streamer.batches import Footprint
from streamer.computing.model.language_model import ROW_LENGTH
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.device.memory import BatchMemory, free_memory
from streamer.device.traits import Traits, traits_of
from streamer.errors import UsageError
from streamer.monitoring.display import as_text
from streamer.planning.budget import FREE_SHARE, Budget
from streamer.planning.cost import BatchCost

FIXED_TOKENS = 4096
"""Of a deterministic run."""
FIXED_BYTES = 2**32
"""Predicted for a batch of a deterministic run, at most: its batches may not depend on how much is
free. Wide SAEs reach it (of 1M features, with some 200 passages a batch), models of up to 70B
parameters do not."""
START_SHARE = 0.02
"""At most, of the free memory in the first batches, by a prediction that nothing has corrected yet:
it may be wrong by a factor of several and no harm is done."""
RESIDUALS = 16
"""Numbers of the residual stream's width that a position holds at once, by and large: the stream,
norms, queries, keys, values and what rotates them, the layers that are read."""
HIDDEN = 4
"""Numbers of the MLP's width: gate, up, their product, and one on the way."""
SCORES_AT_ONCE = 3
"""Arrays of attention's scores that are there at once where they are laid out: as they come, with
the mask, and as weights."""
MASK_BYTES = 8
"""Bytes a pair of positions of a trie's mask, as it is made and as SDPA converts it."""
ACTIVE = 1024
"""Active features a passage that are reckoned with; trained SAEs have about a hundred."""
ACTIVE_BYTES = 25
"""Bytes an active feature: magnitude and index as they come, the magnitude in float64, a flag."""


def budget_for(config: RunConfig, worker: Worker) -> Budget:
    """Found while running, up to what is configured; or just that, of a deterministic run."""
    if config.deterministic:
        return Budget(
            config.max_tokens or FIXED_TOKENS,
            records=config.batch_size,
            cost=cost_for(worker),
            start_bytes=FIXED_BYTES,
            climbs=False,
        )
    device = worker.model.device
    traits, batches = traits_of(device), BatchMemory(device)
    most = config.max_tokens or traits.most_tokens
    start = start_tokens(traits, worker.model.d_model, max(config.layers) + 1)
    return Budget(
        min(start, most),
        most,
        records=config.batch_size,
        cost=cost_for(worker),
        start_bytes=START_SHARE * free_memory(device),
        headroom=batches.look,
    )


def refuse_too_little_memory(config: RunConfig, worker: Worker) -> None:
    """Return if the batches of a deterministic run fit the free memory, which may not cut them.

    :raises UsageError: they do not.
    """
    if not config.deterministic:
        return
    device, tokens = worker.model.device, config.max_tokens or FIXED_TOKENS
    free, most = int(FREE_SHARE * free_memory(device)), _largest(config, worker, tokens)
    if most <= free:
        return
    fitting = (2**power for power in range(tokens.bit_length() - 1, 3, -1))
    fits = next((few for few in fitting if _largest(config, worker, few) <= free), None)
    smaller = f"begin a run with --max-tokens {fits}, or " if fits else "begin one "
    raise UsageError(
        f"the batches of a deterministic run do not depend on how much memory is free: they are "
        f"predicted to need up to {as_text(most)}, and of {device} {as_text(free)} can be had. "
        f"Free more, {smaller}without --deterministic."
    )


def _largest(config: RunConfig, worker: Worker, tokens: int) -> int:
    """Bytes predicted for a deterministic run's batch of so many positions, in rows of usual length
    and with as many passages as there can be."""
    records = min(config.window_records, config.batch_size or config.window_records)
    passages = min(tokens, records * len(worker.passages))
    full = Footprint(positions=tokens, pairs=tokens * ROW_LENGTH, passages=passages)
    return min(FIXED_BYTES, cost_for(worker).bytes(full))


def start_tokens(traits: Traits, d_model: int, layers: int) -> int:
    """Positions of the first batches, a power of two: few enough that they are soon done. A layer
    takes some 24·d_model² FLOPs a position."""
    by_work = traits.start_flops / (24 * d_model**2 * layers)
    fit = max(16.0, min(traits.start_tokens, by_work))
    return int(2 ** math.floor(math.log2(fit)))


def cost_for(worker: Worker) -> BatchCost:
    """What batches are predicted to cost with its model and SAEs."""
    model = worker.model
    widths = [sae.W_dec.shape[0] for sae in worker.saes]
    return BatchCost(
        position=(RESIDUALS * model.d_model + HIDDEN * model.d_mlp) * model.dtype.itemsize,
        pair=MASK_BYTES + SCORES_AT_ONCE * model.scores_a_pair * model.dtype.itemsize,
        passage=passage_bytes(model.width, widths, worker.saes[0].dtype.itemsize),
    )


def passage_bytes(width: int, d_sae: Sequence[int], itemsize: int) -> int:
    """Bytes a passage, at SAEs `d_sae` wide, whose numbers have `itemsize` bytes. The features of
    all layers are held at once, those of the first twice (once with noise), and as much again as
    the widest two while a layer is encoded."""
    features = sum(d_sae) + d_sae[0] + 2 * max(d_sae)
    active = ACTIVE_BYTES * sum(min(ACTIVE, one) for one in d_sae)
    return itemsize * (features + (len(d_sae) + 2) * width) + active
