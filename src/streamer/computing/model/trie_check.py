"""Whether a model computes in packed rows what it does of each passage alone: tried when it is
loaded, as an architecture may ignore the mask or the positions that it is given."""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from streamer.computing.model.find import first_line
from streamer.computing.model.native import NativeForward
from streamer.computing.model.precision import SHORT, fits_in_float32, in_float32
from streamer.planning.packing import Packing, Passage

if TYPE_CHECKING:
    from streamer.computing.model.language_model import LanguageModel

AGREEMENT = {
    torch.float64: 1e-10,
    torch.float32: 2e-5,
    torch.float16: 0.03,
    torch.bfloat16: 0.1,
}
"""How far a packed residual may be from the passage's alone, relative to its norm. A mask or
position that is ignored shows as 0.1 and more; so shorter formats are compared in float32 where
the memory allows it."""


def reason_against_tries(model: "LanguageModel", forward: NativeForward) -> str:
    """Why passages may not share rows with branches; empty if they may."""
    if forward.counts_positions:  # maybe farther than is tried here
        return "some layers look along a row in a way of their own"
    widened = model.dtype in SHORT and fits_in_float32(forward.module, model.device)
    allowed = AGREEMENT[torch.float32 if widened else model.dtype]
    try:
        with in_float32(forward.module) if widened else contextlib.nullcontext():
            apart = _difference(model, _random_passages(model))
    except Exception as error:  # whatever an architecture says to such a mask
        return f"the model refuses packed rows: {first_line(error)}"
    if not apart <= allowed:
        return (
            f"packed residuals differ from those of passages alone by {apart:.1e} of their norm, "
            f"more than {allowed:.0e}"
        )
    return ""


def _random_passages(model: "LanguageModel") -> list[Passage]:
    """With beginnings in common, and lengths that differ."""
    generator = torch.Generator().manual_seed(0)
    length = max(4, min(model.context, 64) - 8)
    vocabulary = min(len(model.tokenizer), model.vocabulary)

    def some(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (n,), generator=generator).tolist())

    stem = some(length)
    return [stem, stem + some(3), stem + some(4), stem[:2] + some(5), some(9)]


def _difference(model: "LanguageModel", passages: Sequence[Passage]) -> float:
    """Between residuals in packed rows and those of each passage alone, at most, over their norm.
    Compared on the host: not every device has float64."""
    packed = Packing("trie", sum(map(len, passages))).pack_passages(passages)
    together = model.residuals(packed).cpu().double()
    rows = (Packing("none", 1).pack_passages([one]) for one in passages)
    alone = torch.cat([model.residuals(row) for row in rows], dim=1).cpu().double()
    return float(((together - alone).norm(dim=-1) / alone.norm(dim=-1)).max())
