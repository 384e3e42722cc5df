"""What a batch costs in memory, predicted when it is cut."""

from dataclasses import dataclass

from streamer.batches import Footprint, N


@dataclass(frozen=True, slots=True)
class BatchCost:
    """Bytes that a batch holds at its peak, per position, pair and passage. The weights of the
    model and the SAEs are always there, and do not count.

    The default counts a byte per position and nothing else: a budget in bytes is then one in
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
        """Bytes of a batch, or of each of many."""
        return (
            self.position * size.positions + self.pair * size.pairs + self.passage * size.passages
        )
