"""What a run finds out about its records on the way, and its user should know."""

from streamer.computing.sae.noise import FAINT
from streamer.config import RunConfig
from streamer.records import Origin


def faint_note(config: RunConfig, faint: int, passages: int) -> str:
    """Of noise that is too faint for so many of the `passages` of a batch."""
    return (
        f"the noise of stability is faint: noise_std = {config.noise_std:g} is under {FAINT:.0%} "
        f"of the root mean square of the residual at layer {config.layers[0]} in {faint:,} of "
        f"{passages:,} passages, so that stability may be near 1 whatever the text. For noise in "
        f"proportion, begin a run with --noise-scale relative"
    )


def doubled_note(origin: Origin) -> str:
    """Of a prompt that ends with a blank, to which the separator adds another."""
    return (
        f"the prompt of record {origin.position} of {origin.source} ends with a blank, and the "
        f'separator adds another. If one is meant, begin a run with --separator ""'
    )
