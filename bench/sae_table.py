"""How far features and reconstructions are from SAELens' in float64, of one residual at a time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from bench.alone import Pick, decoder_layers, layer_output, read_alone, texts
from bench.architectures import LAYERS, load_whole, make_architecture
from bench.sae_kinds import KINDS, NORMALIZATIONS, make_kind
from streamer.computing.model.language_model import (
    ROW_LENGTH,
    LanguageModel,
    load_language_model,
)
from streamer.computing.model.precision import DTYPES, sae_dtype
from streamer.computing.sae.encode import encode
from streamer.computing.sae.find import find_saes
from streamer.computing.sae.load import load_saes
from streamer.computing.sae.noise import NoisePool
from streamer.computing.sae.under_noise import UnderNoise
from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.planning.packing import Packing

MODEL = "Qwen 3"
READ = (0, 2)
"""The layers that have SAEs."""
FORMATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "--bf16": {"bf16": True},
    "float64": {"dtype": "float64"},
}
ROUNDING = {"float32": 1e-4, "float64": 1e-11}
FLIPS = 0.001
"""Most features, of all, that rounding may make active or not, but in bfloat16."""


def _given(given: tuple[Any, ...], _: Any) -> Tensor:
    activation: Tensor = given[0]
    return activation


HOOKS: dict[str, tuple[str, Pick]] = {
    "hook_resid_pre": ("", _given),
    "hook_resid_mid": ("post_attention_layernorm", _given),
    "hook_resid_post": ("", layer_output),
    "hook_attn_out": ("self_attn", layer_output),
    "hook_mlp_out": ("mlp", layer_output),
    "attn.hook_z": ("self_attn.o_proj", _given),
}
"""TransformerLens' name, and where in Hugging Face's decoder layer it is read."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Between what is found and what is right, of many residuals."""

    largest: float = 0.0
    """Over the norm: of the features that both have, or of a reconstruction from equal ones."""
    flips: int = 0
    """Features that only one of the two has active."""
    of: int = 0

    def __or__(self, other: "Difference") -> "Difference":
        largest = max(self.largest, other.largest)
        if math.isnan(other.largest):
            largest = math.nan
        return Difference(largest, self.flips + other.flips, self.of + other.of)

    def is_wrong(self, column: str) -> bool:
        """Whether it is more than rounding."""
        if column not in ROUNDING:
            return math.isnan(self.largest)
        return not self.largest <= ROUNDING[column] or self.flips > FLIPS * self.of


@dataclass(slots=True)
class SaeRow:
    """What was found of one kind of SAE with one normalisation."""

    kind: str
    normalization: str
    found: dict[str, Difference] = field(default_factory=dict)
    """By format, over all hooks where it is not refused."""
    refused: dict[str, list[str]] = field(default_factory=dict)
    """By sentence the hooks and formats at which it refused it."""

    @property
    def is_wrong(self) -> bool:
        """Whether a number is more than rounding."""
        return any(one.is_wrong(column) for column, one in self.found.items())


def measure_saes(kinds: Sequence[str], folder: Path) -> list[SaeRow]:
    """A row for each of `kinds` and each normalisation that SAELens has for it, measured at every
    hook and in every format; model and SAEs are made in `folder`."""
    path = make_architecture(MODEL, folder)
    rows: dict[tuple[str, str], SaeRow] = {}
    for hook, right in _right(path).items():
        made = dict(_made(kinds, hook, folder))
        expected: dict[tuple[str, str], Coded] = {}
        for column, settings in FORMATS.items():
            model, x, config = _read(path, hook, settings)
            for pair, template in made.items():
                row = rows.setdefault(pair, SaeRow(*pair))
                try:
                    found = _found(template, model, x, config)
                except UsageError as refusal:
                    location = template.format(layer=READ[0])
                    sentence = str(refusal).replace(f" {location}", "")
                    sentence = sentence.replace(location, "checkpoint")
                    row.refused.setdefault(sentence, []).append(f"{hook}, {column}")
                    continue
                if pair not in expected:
                    expected[pair] = _expected(template, hook, right)
                known = row.found.get(column, Difference())
                row.found[column] = known | _difference(found, expected[pair])
    return [rows[pair] for pair in sorted(rows, key=_order)]


def _order(pair: tuple[str, str]) -> tuple[int, int]:
    return list(KINDS).index(pair[0]), list(NORMALIZATIONS).index(pair[1])


def _made(kinds: Sequence[str], hook: str, folder: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Each kind and normalisation that there is, and the template of its SAEs for `hook`."""
    for number, kind in enumerate(kinds):
        for place, normalization in enumerate(NORMALIZATIONS):
            template = str(folder / f"{hook} {number} {place}") + " {layer}"
            if all(
                make_kind(kind, normalization, f"blocks.{n}.{hook}", Path(template.format(layer=n)))
                for n in READ
            ):
                yield (kind, normalization), template


def _right(path: Path) -> dict[str, Float[Tensor, "layer passage d_in"]]:
    """By hook, what Hugging Face has there in float64, one text alone."""
    whole = load_whole(MODEL, path)
    layers = [decoder_layers(whole, LAYERS)[n] for n in READ]
    places = {
        hook: [(layer.get_submodule(module), pick) for layer in layers]
        for hook, (module, pick) in HOOKS.items()
    }
    return read_alone(whole, places, texts())


def _read(
    path: Path, hook: str, settings: dict[str, Any]
) -> tuple[LanguageModel, Float[Tensor, "layer passage d_in"], RunConfig]:
    """The model, what it has at `hook` of all texts in one batch, and the run's configuration."""
    config = RunConfig(
        model=str(path), sae="{layer}", layers=READ, hook="blocks.{layer}." + hook, **settings
    )
    model = load_language_model(str(path), config, torch.device("cpu"))
    return model, model.residuals(Packing(model.sharing, ROW_LENGTH).pack_passages(texts())), config


Coded = list[tuple[Float[Tensor, "passage d_sae"], Float[Tensor, "passage d_in"]]]
"""Features and reconstructions, a layer each."""


def _found(
    template: str, model: LanguageModel, x: Float[Tensor, "layer passage d_in"], config: RunConfig
) -> Coded:
    """:raises UsageError: the SAEs are refused."""
    config = config.model_copy(update={"sae": template})
    saes = load_saes(find_saes(config), config, model)
    pool = NoisePool(model.width, 0.1, 0, model.device, DTYPES[sae_dtype(config.dtype)])
    nothing = torch.zeros(x.shape[1], dtype=torch.int64)
    coded = encode(saes, x, UnderNoise(saes[0], pool), nothing)
    return [
        (features, features @ sae.W_dec + sae.b_dec if decoded is None else decoded)
        for sae, features, decoded in zip(saes, coded.features, coded.reconstructions, strict=True)
    ]


@torch.no_grad()
def _expected(template: str, hook: str, right: Float[Tensor, "layer passage d_in"]) -> Coded:
    """What SAELens makes of one residual after another, with heads apart at hook_z."""
    coded = []
    for layer, residuals in zip(READ, right, strict=True):
        sae = SAE.load_from_disk(template.format(layer=layer), dtype="float64")
        features, decoded = [], []
        for x in residuals:
            given = x.reshape(1, 1, 4, -1) if hook.endswith("hook_z") else x.reshape(1, 1, -1)
            f = sae.encode(given)
            features.append(f.flatten())
            decoded.append(sae.decode(f).flatten())
        coded.append((torch.stack(features), torch.stack(decoded)))
    return coded


def _difference(found: Coded, expected: Coded) -> Difference:
    whole = Difference()
    for (f, decoded), (right, right_decoded) in zip(found, expected, strict=True):
        flipped = (f != 0) != (right != 0)
        apart = ((f.double() - right).masked_fill(flipped, 0)).norm(dim=-1) / right.norm(dim=-1)
        same = ~flipped.any(-1)
        far = (decoded.double() - right_decoded).norm(dim=-1) / right_decoded.norm(dim=-1)
        largest = torch.cat([apart, far[same]]).max()
        whole |= Difference(float(largest), int(flipped.sum()), f.numel())
    return whole
