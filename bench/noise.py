"""The noise for stability: drawn anew for each batch, against looked up in the pool.

python -m bench.noise [--sizes 64,1024] [--repeats 200] [--device cpu]
"""

import argparse
import random

import numpy as np
import torch

from bench.report import report
from bench.timing import median_seconds
from streamer.computing.sae.noise import POOL_VECTORS, NoisePool
from streamer.device.transfers import to_device

D_MODEL, STD = 2304, 0.1


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="64,1024")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    pool = NoisePool(D_MODEL, STD, 0, device, torch.float32)

    def look_up(keys: list[int]) -> torch.Tensor:
        indices = np.array([key % POOL_VECTORS for key in keys], dtype=np.int64)
        return pool.vectors[to_device([indices], device)[0]]

    rows = []
    for size in map(int, options.sizes.split(",")):
        keys = [random.Random(place).getrandbits(32) for place in range(size)]
        fresh = median_seconds(
            lambda size=size: torch.randn(size, D_MODEL, device=device) * STD,
            options.repeats,
            options.device,
        )
        looked_up = median_seconds(lambda keys=keys: look_up(keys), options.repeats, options.device)
        rows += [
            {"records": size, "method": method, "ms": 1000 * seconds, "speed_up": fresh / seconds}
            for method, seconds in (("fresh", fresh), ("pool", looked_up))
        ]
    report("noise", rows, d_model=D_MODEL, device=options.device, repeats=options.repeats)


if __name__ == "__main__":
    main()
