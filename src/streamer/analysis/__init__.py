"""What is measured. One file a family of metrics: it names its columns, and computes a whole batch.

`FAMILIES` are all of them, in the order of their columns. To add one, write a `Family` (see
`docs/architecture.md`) and put it here.
"""

from streamer.analysis.activations import Activations
from streamer.analysis.columns import Family, Layout, columns_of, compute
from streamer.analysis.consistency import CONSISTENCY
from streamer.analysis.differences import DIFFERENCES
from streamer.analysis.drift import DRIFT
from streamer.analysis.entropy import ENTROPY
from streamer.analysis.geometry import GEOMETRY
from streamer.analysis.spectroscopy import SPECTROSCOPY
from streamer.analysis.stability import STABILITY
from streamer.records import Column

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
