"""What a batch costs in memory, predicted before it is run from what is known when it is cut."""

from dataclasses import dataclass

from streamer.batches import Footprint, N


@dataclass(frozen=True, slots=True)
class BatchCost:
    """Bytes that a batch holds at once at its peak, by what they grow with. The model's and the
    SAEs' weights are always there, and do not count.

    The default counts positions alone, a byte each: a budget of so many bytes is one of so many
    positions.
    """

    position: int = 1
    """Bytes a token position, padding included: activations of the transformer, d_model wide and
    wider."""
    pair: int = 0
    """Bytes a pair of positions in a row: attention's mask and, where they are laid out, the scores
    of all heads."""
    passage: int = 0
    """Bytes a passage: its features at all layers, d_sae wide each, and what is made of them."""

    def bytes(self, size: Footprint[N]) -> N:
        """Of a batch, or of many at once."""
        return (
            self.position * size.positions + self.pair * size.pairs + self.passage * size.passages
        )
