"""Three ways to the shape of the active decoder directions: time a passage.

    python -m bench.geometry [--d-models 768,2304] [--passages 192] [--dense-passages 2]
                             [--repeats 3] [--device cpu]

dense: the d × d covariance, a passage at a time; gram: the n × n Gram matrix, a passage at a time;
streamer: Gram matrices of like n together. About 90 features are active; all in float64.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.report import report
from bench.timing import median_seconds
from streamer.tables.metrics.shape import Shape, ShapesUnderWay
from streamer.tables.sparse import SparseFeatures, alike

D_SAE = 16_384
ACTIVE, DEVIATION = 90, 18
"""Features active in a passage: mean, and standard deviation over passages."""


@dataclass(frozen=True, slots=True)
class Clouds:
    """Active features of passages, strongest first, and the directions they stand for."""

    magnitude: Float[Tensor, "passage active"]
    index: Int[Tensor, "passage active"]
    counts: Sequence[int]
    W_dec: Float[Tensor, "d_sae d_model"]

    def points(
        self, passage: int
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d_model"], Float[Tensor, " d_model"]]:
        """Weights, directions around their centroid, and that centroid, in float64."""
        n = self.counts[passage]
        w = self.magnitude[passage, :n] / self.magnitude[passage, :n].sum()
        r = self.W_dec[self.index[passage, :n]].double()
        centroid = w @ r
        return w, r - centroid, centroid


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-models", default="768,2304")
    parser.add_argument("--passages", type=int, default=192, help="a multiple of three")
    parser.add_argument("--dense-passages", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    rows = []
    for d_model in map(int, options.d_models.split(",")):
        clouds = _clouds(d_model, options.passages, options.device)
        ways: dict[str, tuple[int, Callable[[], object]]] = {
            "dense": (options.dense_passages, partial(_each, dense, clouds)),
            "gram": (options.passages, partial(_each, gram, clouds)),
            "streamer": (options.passages, partial(_batched, clouds)),
        }
        _check(clouds)
        seconds = {}
        for name, (count, work) in ways.items():
            call = work if name == "streamer" else partial(work, count)
            seconds[name] = median_seconds(call, options.repeats, options.device) / count
            rows.append(
                {
                    "d_model": d_model,
                    "method": name,
                    "passages": count,
                    "ms_per_passage": 1000 * seconds[name],
                    "speed_up": seconds["dense"] / seconds[name],
                }
            )
    settings = {"active": ACTIVE, "deviation": DEVIATION, "device": options.device}
    report("geometry", rows, **settings, repeats=options.repeats, threads=torch.get_num_threads())


def dense(
    clouds: Clouds, passage: int
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"], Float[Tensor, " k"]]:
    """Centroid, first axis and eigenvalues, largest first, from the d × d covariance."""
    w, spread, centroid = clouds.points(passage)
    values, vectors = torch.linalg.eigh((spread * w[:, None]).T @ spread)
    return centroid, vectors[:, -1], values.flip(0)


def gram(
    clouds: Clouds, passage: int
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"], Float[Tensor, " k"]]:
    """The same from the n × n Gram matrix."""
    w, spread, centroid = clouds.points(passage)
    M = w.sqrt()[:, None] * spread
    values, vectors = torch.linalg.eigh(M @ M.T)
    axis = M.T @ vectors[:, -1]
    return centroid, axis / axis.norm(), values.flip(0)


def _each(way: Callable[[Clouds, int], object], clouds: Clouds, count: int) -> None:
    for passage in range(count):
        way(clouds, passage)


def _batched(clouds: Clouds) -> Shape:
    """The same of all passages at once, as a run does it."""
    active = clouds.magnitude > 0
    ends = torch.tensor([0, *clouds.counts], device=active.device).cumsum(0)
    values, index = clouds.magnitude[active], clouds.index[active]
    (groups,) = alike([clouds.counts], active.device)
    return ShapesUnderWay(SparseFeatures(values, index, ends, groups, D_SAE), clouds.W_dec).finish()


def _clouds(d_model: int, passages: int, device: str) -> Clouds:
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(D_SAE, d_model, generator=generator)
    W_dec /= W_dec.norm(dim=-1, keepdim=True)
    drawn = ACTIVE + DEVIATION * torch.randn(passages, generator=generator)
    counts = drawn.round().int().clamp(min=2)
    magnitude = 8 + torch.rand(passages, int(counts.max()), generator=generator).double()
    magnitude = magnitude.sort(descending=True).values
    magnitude[torch.arange(magnitude.shape[1]) >= counts[:, None]] = 0
    index = torch.rand(passages, D_SAE, generator=generator).topk(magnitude.shape[1]).indices
    return Clouds(magnitude.to(device), index.to(device), counts.tolist(), W_dec.to(device))


def _check(clouds: Clouds) -> None:
    """All three give the same eigenvalues of the first passage."""
    n = clouds.counts[0] - 1
    expected = dense(clouds, 0)[2][:n]
    torch.testing.assert_close(gram(clouds, 0)[2][:n], expected)
    torch.testing.assert_close(_batched(clouds).eigenvalues[0, :n], expected)


if __name__ == "__main__":
    main()
