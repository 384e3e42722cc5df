"""The active features of many passages, without the zeros between them.

Of 16,384 features some 90 are active; at BOS it can be thousands. Whatever is computed from them
reads this, so that a batch costs what is active in it, not its passages times the densest.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from streamer.device.transfers import to_device

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Alike:
    """Passages with about as many active features each, the fewest first."""

    passages: Int[Tensor, " member"]
    """Which they are."""
    counts: Sequence[int]
    """How many features each has, on the host."""

    @property
    def width(self) -> int:
        """The most that one of them has."""
        return self.counts[-1]

    def split(self, most: int) -> "Iterator[Alike]":
        """The same in pieces of at most so many features in all, but at least one passage."""
        step = max(1, most // self.width)
        for at in range(0, len(self.counts), step):
            yield Alike(self.passages[at : at + step], self.counts[at : at + step])


@dataclass(frozen=True, slots=True)
class Group:
    """Passages with about as many active features, padded to the most of them."""

    values: Float[Tensor, "member width"]
    """Magnitudes, largest first, 0 behind the last."""
    indices: Int[Tensor, "member width"]
    """Which features they are; behind the last, any."""
    counts: Int[Tensor, " member"]
    """How many are active."""
    signs: Float[Tensor, "member width"] | None = None
    """−1 or 1; None where no feature is negative."""


TIES = 16
"""Features beyond the strongest that are looked at for equals of the last of them."""


@dataclass(frozen=True, slots=True)
class Strongest:
    """The strongest features of passages, in one or several draws of what is random about them."""

    values: Float[Tensor, "draw passage count"]
    """Largest first, 0 behind the last that is active."""
    indices: Int[Tensor, "draw passage count"]
    """Which features they are; behind the last, any."""

    @classmethod
    def of(cls, features: Float[Tensor, "passage d_sae"], count: int) -> "Strongest":
        """The `count` strongest, in one draw; of equally strong ones those of the least index, as
        `SparseFeatures.strongest` has them. (A device may give those in any order.)"""
        most = features.shape[-1]
        values, indices = features.topk(min(count + TIES, most))
        order = indices.argsort(-1)
        values, indices = values.gather(-1, order), indices.gather(-1, order)
        values, order = values.sort(dim=-1, descending=True, stable=True)
        kept = slice(min(count, most))
        strongest = values[:, kept].clamp(min=0), indices.gather(-1, order)[:, kept]
        return cls(*(one[None] for one in strongest))

    @classmethod
    def stacked(cls, draws: "Sequence[Strongest]") -> "Strongest":
        """All `draws` of the same passages."""
        return cls(
            torch.cat([one.values for one in draws]), torch.cat([one.indices for one in draws])
        )

    @classmethod
    def side_by_side(cls, pieces: "Sequence[Strongest]") -> "Strongest":
        """The passages of all `pieces`, which have as many draws."""
        return cls(
            torch.cat([one.values for one in pieces], 1),
            torch.cat([one.indices for one in pieces], 1),
        )

    def replace(self, passages: Int[Tensor, " some"], other: "Strongest") -> None:
        """Put what `other` has into these `passages`."""
        self.values[:, passages] = other.values
        self.indices[:, passages] = other.indices


@dataclass(frozen=True)
class SparseFeatures:
    """The active features of passages at one layer, one passage behind the other.

    Three passages of an SAE of six features:

        [0 2 0 0 5 0]      values   5 2 | | 4 3 1
        [0 0 0 0 0 0]      indices  4 1 | | 3 5 0
        [1 0 0 4 0 3]      offsets  0     2 2       5
    """

    values: Float[Tensor, " active"]
    """Their magnitudes: within a passage the largest first, equal ones by index."""
    indices: Int[Tensor, " active"]
    """Which features they are."""
    offsets: Int[Tensor, " passage_and_end"]
    """Where in `values` each passage begins, and the end."""
    alike: Sequence[Alike]
    """The passages in which any is active, in groups: what is computed of one has its width."""
    d_sae: int
    signs: Float[Tensor, " active"] | None = None
    """−1 or 1 for each; None where no feature is negative."""

    @classmethod
    def of_layers(
        cls,
        features: Sequence[Float[Tensor, "passage _"]],
        counts: Sequence[Sequence[int]],
        dtype: torch.dtype,
        signed: Sequence[bool],
    ) -> "list[SparseFeatures]":
        """Those of each layer's `features` that are active, in `dtype`. `counts` [layer][passage]
        says how many each passage has, so that the device is not waited for; `signed` whether a
        layer's features may be negative."""
        grouped = alike(counts, features[0].device)
        return [
            cls._of(at_layer, sum(active), dtype, groups, signed=has_signs)
            for at_layer, active, groups, has_signs in zip(
                features, counts, grouped, signed, strict=True
            )
        ]

    @classmethod
    def _of(
        cls,
        features: Float[Tensor, "passage d_sae"],
        active: int,
        dtype: torch.dtype,
        groups: Sequence[Alike],
        *,
        signed: bool,
    ) -> "SparseFeatures":
        passages, d_sae = features.shape
        chosen = is_active(features, signed=signed).reshape(-1)
        found = torch.nonzero_static(chosen, size=active)[:, 0]
        given = features.reshape(-1)[found]
        values = given.abs() if signed else given
        order = values.argsort(stable=True, descending=True)
        order = order[(found[order] // d_sae).argsort(stable=True)]
        found, values = found[order], values[order]
        begins = torch.arange(passages + 1, device=found.device)
        offsets = torch.searchsorted(found // d_sae, begins)
        signs = given[order].sign().to(dtype) if signed else None
        return cls(values.to(dtype), found % d_sae, offsets, groups, d_sae, signs)

    def __len__(self) -> int:
        """How many passages."""
        return len(self.offsets) - 1

    @property
    def l0(self) -> Int[Tensor, " passage"]:
        """How many features are active, on the device."""
        return self.offsets.diff()

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All passages in which any is active, like counts together: padding adds a tenth."""
        return tuple(self.padded(one.passages, one.width) for one in self.alike)

    def padded(self, passages: Int[Tensor, " member"], width: int) -> Group:
        """The `width` strongest features of each of `passages`, or as many as it has."""
        begin, counts = self.offsets[passages], self.l0[passages]
        at = torch.arange(width, device=begin.device)
        behind = at >= counts[:, None]
        at = (begin[:, None] + at).clamp(max=max(0, len(self.values) - 1))
        if not len(self.values):
            empty = behind.new_zeros(behind.shape)
            return Group(empty.to(self.values), empty.to(self.indices), counts)
        signs = None if self.signs is None else self.signs[at]
        return Group(self.values[at].masked_fill(behind, 0), self.indices[at], counts, signs)

    def strongest(self, count: int) -> Group:
        """The `count` strongest features of every passage, or as many as the SAE has."""
        everyone = torch.arange(len(self), device=self.offsets.device)
        return self.padded(everyone, min(count, self.d_sae))

    def reduce(
        self, compute: Callable[[Group], Float[Tensor, " member"]]
    ) -> Float[Tensor, " passage"]:
        """What `compute` makes of each passage, NaN where nothing is active."""
        found = torch.full_like(self.offsets[1:], NAN, dtype=self.values.dtype)
        for one, group in zip(self.alike, self.groups, strict=True):
            found[one.passages] = compute(group)
        return found

    def dot(self, other: "SparseFeatures") -> Float[Tensor, " passage"]:
        """Σ fᵢ gᵢ of each passage, signs included, for the same features of `other`; NaN where none
        is active."""
        if not len(other.values):
            return self.reduce(lambda group: 0 * group.values.sum(-1))
        theirs, order = other._keys.sort()
        at = torch.searchsorted(theirs, self._keys).clamp(max=len(theirs) - 1)
        beside = other._with_signs[order[at]].masked_fill(theirs[at] != self._keys, 0)
        products = dataclasses.replace(self, values=self._with_signs * beside)
        return products.reduce(lambda group: group.values.sum(-1))

    @property
    def _with_signs(self) -> Float[Tensor, " active"]:
        return self.values if self.signs is None else self.values * self.signs

    @cached_property
    def _keys(self) -> Int[Tensor, " active"]:
        """A number for each active feature that says its passage, too."""
        at = torch.arange(len(self.values), device=self.offsets.device)
        passage = torch.searchsorted(self.offsets, at, right=True) - 1
        return passage * self.d_sae + self.indices


def is_active(
    features: Float[Tensor, "passage d_sae"], *, signed: bool
) -> Bool[Tensor, "passage d_sae"]:
    """Which features are active: > 0, or ≠ 0 where they have a sign."""
    active = features > 0
    return active | (features < 0) if signed else active  # of a NaN, neither


def alike(counts: Sequence[Sequence[int]], device: torch.device) -> list[list[Alike]]:
    """Groups of each layer's passages, `counts` [layer][passage], in which any feature is active:
    all of them in one copy to `device`.

    Up to 4 features, or up to 1.1 times the smallest, are alike: `[90, 3000, 95, 0]` gives passages
    0 and 2, and passage 1. Closer groups would be more, and each costs its own launches.
    """
    by_count = [np.argsort(of_layer, kind="stable") for of_layer in counts]
    on_device = to_device(by_count, device)
    found = []
    for of_layer, order, passages in zip(counts, by_count, on_device, strict=True):
        n = np.asarray(of_layer)[order]
        found.append([Alike(passages[a:b], n[a:b].tolist()) for a, b in pairwise(_ends(n))])
    return found


def _ends(n: Int[np.ndarray, " passage"]) -> list[int]:
    """Where the zeros of the ascending `n` end, and each group of like numbers behind them."""
    ends = [int(np.searchsorted(n, 0, "right"))]
    while ends[-1] < len(n):
        ends.append(int(np.searchsorted(n, max(4, 1.1 * n[ends[-1]]), "right")))
    return ends
