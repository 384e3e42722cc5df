"""What is tried of a model when it is loaded: whether no token changes those before it, whether the
device need not be waited for, and whether packed rows give what each passage alone does. An
architecture may attend both ways, or ignore the mask or the positions that it is given."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from streamer.computing.model.find import first_line
from streamer.computing.model.mask_check import masks_agree
from streamer.computing.model.native import NativeForward
from streamer.computing.model.precision import SHORT, fits_in_float32, in_float32
from streamer.errors import UsageError
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
    try:
        if not masks_agree(forward, model.device):
            return "some layers see another part of a row than the mask of a packed row says"
        with compared(model, forward.module) as allowed:
            apart = _difference(model, _random_passages(model))
    except Exception as error:  # whatever an architecture says to such a mask
        return f"the model refuses packed rows: {first_line(error)}"
    if not apart <= allowed:
        return (
            f"packed residuals differ from those of passages alone by {apart:.1e} of their norm, "
            f"more than {allowed:.0e}"
        )
    return ""


def refuse_looking_ahead(model: "LanguageModel", module: nn.Module) -> None:
    """Return if no token changes what the hooks read of those before it.

    :raises UsageError: one does. Then padding, and whatever else comes after a passage in its row,
        would change the numbers of the passage.
    """
    long = _random_passages(model)[-1]
    short = long[: len(long) // 2]
    pack = Packing("none", 1).pack_passages
    with compared(model, module) as allowed:
        alone = model.residuals(pack([short])).cpu().double()
        beside = model.residuals(pack([short, long]))[:, :1].cpu().double()
    if not alone.isfinite().all():
        raise UsageError(
            f"what the model {model.identity.name} makes of random tokens is not finite: its "
            f"weights are damaged, or too large for {str(model.dtype).removeprefix('torch.')}. "
            f"Get its files again, or give --dtype float32."
        )
    apart = float(((beside - alone).norm(dim=-1) / alone.norm(dim=-1)).max())
    if not apart <= allowed:
        raise UsageError(
            f"the model {model.identity.name} is not causal: tokens attend to those after them, "
            f"which change what is read of them by {apart:.1e} of its norm. So the numbers of a "
            f"text would depend on what stands beside it in a batch. Choose a causal model."
        )


def stop_asking(model: "LanguageModel", forward: NativeForward) -> None:
    """Let Hugging Face not ask the device about rows without branches, if that changes no residual
    at all. Some architectures refuse what it takes; they are run as they are."""
    rows = Packing("prefix", 1).pack_passages(_random_passages(model))
    asked = model.residuals(rows)
    try:
        with forward.without_asking() as keep:
            if torch.equal(model.residuals(rows), asked):
                keep()
    except Exception:  # whatever an architecture says to a cache that is none
        return


@contextlib.contextmanager
def compared(model: "LanguageModel", module: nn.Module) -> Iterator[float]:
    """While it is entered, `model` computes as exactly as memory allows: how far two residuals that
    should be the same may be apart, relative to their norm."""
    widened = model.dtype in SHORT and fits_in_float32(module, model.device)
    with in_float32(module) if widened else contextlib.nullcontext():
        yield AGREEMENT[torch.float32 if widened else model.dtype]


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
