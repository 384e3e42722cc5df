"""How far batches are from Hugging Face's float64 and one text alone, by architecture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.alone import decoder_layers, farthest, layer_output, read_alone, texts
from bench.architectures import ARCHITECTURES, LAYERS, load_whole, make_architecture
from streamer.computing.model.language_model import ROW_LENGTH, load_language_model
from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.planning.packing import Packing

FORMATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "--bf16": {"bf16": True},
    "bfloat16": {"dtype": "bfloat16"},
    "float64": {"dtype": "float64"},
    "bridge": {"forward": "bridge"},
}
"""The columns, and the settings of a run for each."""
ROUNDING = {"float32": 1e-4, "float64": 1e-11, "bridge": 1e-4}
"""More than this is no rounding. In bfloat16 there is no such limit: in a mixture of experts a
token that goes to another expert has another residual."""
RUNS = {
    ("native", "trie"): "native, texts share rows",
    ("native", "prefix"): "native, a text a row",
    ("bridge", "prefix"): "bridge, a text a row",
}


@dataclass(slots=True)
class Row:
    """What was found of one architecture."""

    name: str
    runs: str = ""
    """Which forward pass runs unless another is asked for; empty if none does."""
    found: dict[str, float | str] = field(default_factory=dict)
    """By column the largest difference, relative to the residual's norm; or why there is none."""

    def is_wrong(self, column: str) -> bool:
        """Whether a number is more than rounding."""
        value = self.found[column]
        return isinstance(value, float) and not value <= ROUNDING.get(column, torch.inf)


def measure_architectures(names: Sequence[str], folder: Path) -> Iterator[Row]:
    """A row for each; the models are made in `folder`."""
    for name in names:
        yield _measure(name, make_architecture(name, folder))


def _measure(name: str, path: Path) -> Row:
    row, passages = Row(name), texts()
    right: torch.Tensor | None = None
    for column, settings in FORMATS.items():
        config = RunConfig(
            model=str(path),
            sae="{layer}",
            layers=tuple(range(LAYERS)),
            hook="blocks.{layer}." + ARCHITECTURES[name].hook,
            device="cpu",
            **settings,
        )
        try:
            model = load_language_model(str(path), config, torch.device("cpu"))
            rows = Packing(model.sharing, ROW_LENGTH).pack_passages(passages)
            found = model.residuals(rows)
        except UsageError as refusal:
            row.found[column] = str(refusal).replace(str(path), path.name)
            continue
        row.runs = row.runs or RUNS[model.forward, model.sharing]
        if right is None:
            right = _right(name, path)
        row.found[column] = farthest(found, right)
    return row


def _right(name: str, path: Path) -> torch.Tensor:
    """[layer, passage, d_model]: what every decoder layer puts out, by Hugging Face itself."""
    whole = load_whole(name, path)
    layers = decoder_layers(whole, LAYERS)
    return read_alone(whole, {"": [(layer, layer_output) for layer in layers]}, texts())[""]
