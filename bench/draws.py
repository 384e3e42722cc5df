"""What more draws of noise cost: whole batches with one and with eight, in turns.

    python -m bench.draws [--sample 48]

Also with noise in proportion to the residual, and with every draw encoded by itself, as is done for
SAEs that are not affine up to a threshold. `setup_seconds` are spent once, when the SAE is loaded.
"""

import time
from statistics import median
from typing import Any

from bench.report import report
from bench.runs import compute, count_records, planned_sample, run_parser, set_up
from bench.timing import in_turns, seconds
from streamer.computing.sae.noise import NoisePool
from streamer.computing.sae.under_noise import UnderNoise
from streamer.computing.worker import Worker
from streamer.concurrency.threads import in_own_thread
from streamer.config import RunConfig

DRAWS = RunConfig.model_fields["noise_draws"].default
ONE, EACH = "1 draw", f"{DRAWS} draws, each encoded"
WAYS: dict[str, dict[str, Any]] = {
    ONE: {"draws": 1},
    f"{DRAWS} draws": {"draws": DRAWS},
    f"{DRAWS} draws, relative": {"draws": DRAWS, "scale": "relative"},
    EACH: {"draws": DRAWS},
}


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = run_parser(__doc__, repeats=5)
    parser.add_argument("--sample", type=int, default=48)
    options = parser.parse_args(arguments)
    setup = set_up(options)
    worker = setup.worker()
    batches = planned_sample(setup, worker, options.sample)
    noises, spent = {}, {}
    for way, settings in WAYS.items():
        begin = time.perf_counter()
        noises[way] = _noise(worker, setup.config(), **settings)
        spent[way] = time.perf_counter() - begin
    noises[EACH].is_affine = False

    def run(way: str) -> float:
        worker.noise = noises[way]
        return seconds(lambda: compute(worker, batches), worker.model.device)

    ways = {way: lambda way=way: in_own_thread(lambda: run(way)) for way in WAYS}
    ways[ONE]()  # warm-up
    turns = in_turns(ways, setup.repeats)
    rows = [
        {
            "way": way,
            "ms_a_record": 1e3 * median(took) / count_records(batches),
            "over_one": median(a / b for a, b in zip(took, turns[ONE], strict=True)),
            "setup_seconds": spent[way],
        }
        for way, took in turns.items()
    ]
    report("draws", rows, **setup.described(), records=count_records(batches), turns=turns)


def _noise(worker: Worker, config: RunConfig, **settings: Any) -> UnderNoise:
    device, dtype = worker.model.device, worker.saes[0].dtype
    width, std, seed = worker.model.width, config.noise_std, config.seed
    return UnderNoise(worker.saes[0], NoisePool(width, std, seed, device, dtype, **settings))


if __name__ == "__main__":
    main()
