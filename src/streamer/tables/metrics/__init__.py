"""What is measured. One file a family of metrics: it names its columns, and computes a whole batch.

`FAMILIES` are all of them, in the order of their columns. To add one, write a `Family` (see
`docs/architecture.md`) and put it here.
"""

from streamer.tables.column import Column
from streamer.tables.metrics.activations import Activations
from streamer.tables.metrics.columns import Family, columns_of, compute
from streamer.tables.metrics.consistency import CONSISTENCY
from streamer.tables.metrics.differences import DIFFERENCES
from streamer.tables.metrics.drift import DRIFT
from streamer.tables.metrics.entropy import ENTROPY
from streamer.tables.metrics.geometry import GEOMETRY
from streamer.tables.metrics.spectroscopy import SPECTROSCOPY
from streamer.tables.metrics.stability import STABILITY
from streamer.tables.table import Layout

FAMILIES: tuple[Family, ...] = (
    SPECTROSCOPY,
    GEOMETRY,
    DRIFT,
    STABILITY,
    ENTROPY,
    CONSISTENCY,
    DIFFERENCES,
)

__all__ = [
    "FAMILIES",
    "Activations",
    "Column",
    "Family",
    "Layout",
    "columns_of",
    "compute",
]
