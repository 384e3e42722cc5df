"""How much a batch may hold: more while that is faster, less where it did not or will not fit."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from streamer.batches import Footprint, Work
from streamer.computing.starting_budget import passage_bytes, start_tokens
from streamer.device.memory import Headroom
from streamer.device.traits import TRAITS
from streamer.planning.budget import FREE_SHARE, FULL, LONGEST_SECONDS, RETRY, TRIALS, Budget
from streamer.planning.cost import BatchCost
from streamer.records import Counts


def size(positions: int, width: int = 1, passages: int = 0) -> Footprint[int]:
    return Footprint(positions, positions * width, passages)


def most(budget: Budget, width: int = 1) -> int:
    """Most positions, in rows of that width, that a batch may have."""
    positions = np.arange(1, 2**14)
    return budget.count_held(Footprint(positions, positions * width, np.zeros_like(positions)))


def ran(positions: int, width: int = 1, passages: int = 0) -> Work:
    """A batch that fits."""
    footprint = size(positions, width, passages)
    return Work(Counts(tokens_run=positions), positions=positions, largest=footprint)


def was_split(positions: int, fitted: int, width: int = 1, hopeless: int = 0) -> Work:
    """A batch that did not fit, of which so many positions did at once."""
    largest = size(fitted, width)
    counts = Counts(tokens_run=positions, out_of_memory_splits=1)
    return Work(counts, positions=positions, largest=largest, hopeless=hopeless)


def rising(to: int) -> Callable[[int], float]:
    """Tokens a second that double with the batch up to `to` positions, and no further."""
    return lambda positions: float(min(positions, to))


def run(budget: Budget, rate: Callable[[int], float], batches: int, share: float = 1.0) -> None:
    """Batches as large as it holds, or that share of it."""
    for _ in range(batches):
        n = int(share * most(budget))
        budget.measured(ran(n), n / rate(n))


def settled(budget: Budget, rate: Callable[[int], float]) -> int:
    run(budget, rate, 20 * TRIALS)
    return budget.tokens


class Device:
    """Whose batches need so many bytes for each that is predicted."""

    def __init__(self, total: int, scale: float) -> None:
        self.total, self.scale = total, scale
        self.predicted = 0.0
        self.peak = 0.0

    def headroom(self) -> Headroom:
        needed = self.scale * self.predicted
        is_new, self.peak = needed > self.peak, max(needed, self.peak)
        return Headroom(int(self.peak), is_new, self.total)

    def run(self, budget: Budget, positions: int) -> None:
        """A batch of that size, which must fit, ever faster with more."""
        self.predicted = budget.cost.bytes(size(positions))
        assert self.scale * self.predicted <= self.total, "did not fit"
        budget.measured(ran(positions), 1e-3)


def test_it_climbs_while_that_is_faster_and_settles_where_it_is_not():
    assert settled(Budget(16, 2**13), rising(1024)) == 1024
    assert settled(Budget(16, 2**13), rising(64)) == 64
    assert settled(Budget(16, 2**13), rising(16)) == 16


@pytest.mark.parametrize("largest", [16, 17, 1000, 1024, 5000])
def test_it_never_climbs_beyond_the_most(largest):
    budget = Budget(16, largest)
    for _ in range(3 * RETRY):
        run(budget, rising(2**30), 1)
        assert budget.tokens <= largest
    assert 2 * budget.tokens > largest


def test_a_step_takes_a_few_full_batches_of_which_the_first_is_warm_up():
    budget = Budget(16, 1024)
    run(budget, rising(1024), TRIALS - 1)
    assert budget.tokens == 16
    run(budget, rising(1024), 1)
    assert budget.tokens == 32
    # were the slow first batch counted, 32 would look no faster than 16
    budget.measured(ran(32), 1e6)
    run(budget, rising(1024), TRIALS - 1)
    assert budget.tokens == 64


def test_a_batch_that_does_not_fill_the_budget_says_nothing():
    budget = Budget(100, 1000)
    run(budget, rising(1000), 100 * TRIALS, share=FULL - 0.05)
    assert budget.tokens == 100
    run(budget, rising(1000), TRIALS, share=FULL + 0.05)
    assert budget.tokens == 200


def test_bytes_that_batches_fill_climb_and_positions_that_they_do_not_fill_stay():
    budget = Budget(64, 2**13, cost=BatchCost(position=10), start_bytes=320)
    run(budget, rising(2**30), TRIALS)
    assert (most(budget), budget.tokens) == (64, 64)
    run(budget, rising(64), 20 * TRIALS)
    assert (most(budget), budget.tokens) == (64, 64), "no faster with 128"


def test_positions_climb_no_further_than_the_bytes_allow():
    budget = Budget(16, 2**13, cost=BatchCost(position=10), start_bytes=200)
    run(budget, rising(16), 20 * TRIALS)
    assert most(budget) == 16
    assert not budget.holds(1, size(21))


@pytest.mark.parametrize("scale", [0.5, 1, 3])
def test_it_climbs_as_far_as_the_memory_lasts_by_what_batches_really_need(scale):
    device = Device(total=10_000, scale=scale)
    cost = BatchCost(position=10)
    budget = Budget(16, 2**13, cost=cost, start_bytes=160, headroom=device.headroom)
    for _ in range(2 * RETRY):
        device.run(budget, most(budget))
    assert FREE_SHARE / 4 < 10 * scale * most(budget) / 10_000 <= FREE_SHARE


def test_a_wide_batch_is_cut_where_a_narrow_one_of_as_many_positions_fits():
    budget = Budget(1000, cost=BatchCost(position=10, pair=1), start_bytes=10_000)
    assert most(budget, width=1) > 900
    assert most(budget, width=90) == 100
    assert budget.holds(1, size(100, width=90))
    assert not budget.holds(1, size(101, width=90))


def test_many_passages_are_too_much_where_their_positions_are_not():
    """SAEs of a million features and a tiny model: passages cost all there is."""
    cost = BatchCost(position=100, passage=passage_bytes(8, [2**20], 4))
    budget = Budget(4096, 2**13, cost=cost, start_bytes=200 * 2**20)
    assert budget.holds(1, size(4096, passages=1))
    assert not budget.holds(1, size(100, passages=25))


def test_memory_that_others_take_is_not_counted_on():
    device = Device(total=10_000, scale=1)
    budget = Budget(64, cost=BatchCost(position=10), headroom=device.headroom)
    device.run(budget, 64)
    assert most(budget) == 64
    device.total = 400
    device.run(budget, 32)
    assert most(budget) == FREE_SHARE * 400 / 10
    device.total = 10_000
    device.run(budget, 32)
    assert most(budget) == 64


def test_small_batches_do_not_correct_the_prediction():
    """Of what they seem to need, most is not theirs."""
    free = 10_000
    budget = Budget(
        64,
        cost=BatchCost(position=10),
        headroom=lambda: Headroom(needed=4000, is_new_peak=True, free=free),
    )
    budget.measured(ran(4), 1.0)
    assert most(budget) == 64


def test_once_settled_it_tries_again_after_many_batches():
    budget = Budget(16, 2**13)
    assert settled(budget, rising(64)) == 64
    seen = []
    for _ in range(RETRY + 3 * TRIALS):
        run(budget, rising(256), 1)  # what came first was slow to read, say
        seen.append(budget.tokens)
    waited = len(list(itertools.takewhile(lambda tokens: tokens == 64, seen)))
    assert RETRY // 2 < waited <= RETRY + TRIALS
    assert settled(budget, rising(256)) == 256


def test_after_a_batch_was_split_none_is_larger_than_what_did_fit_for_a_while():
    budget = Budget(64, 2**13)
    run(budget, rising(2**30), 2 * TRIALS)
    assert most(budget) == 256
    budget.measured(was_split(256, fitted=128), 1.0)
    for _ in range(RETRY - 1):
        assert most(budget) == 128
        run(budget, rising(2**30), 1)
    run(budget, rising(2**30), 2)
    assert most(budget) == 256


def test_a_batch_that_did_not_fit_and_of_which_nothing_was_measured_halves_the_bytes():
    """As when every part of it fails for another reason."""
    budget = Budget(256)
    before = budget.bytes
    budget.measured(Work(Counts(out_of_memory_splits=1)), 1.0)
    assert budget.bytes == before / 2


def test_what_does_not_fit_again_and_again_is_tried_ever_less():
    budget, splits = Budget(256), []
    for batch in range(20 * RETRY):
        if most(budget) > 128:
            splits.append(batch)
            budget.measured(was_split(256, fitted=128), 1.0)
        else:
            run(budget, rising(2**30), 1)
    gaps = np.diff(splits)
    assert 3 <= len(gaps) <= 5
    assert (gaps[1:] > 1.5 * gaps[:-1]).all()


def test_a_wide_batch_that_was_split_takes_nothing_from_narrow_ones():
    budget = Budget(1000, cost=BatchCost(position=10, pair=10), start_bytes=10**6)
    budget.measured(was_split(500, fitted=250, width=100), 1.0)
    assert most(budget, width=100) == 250
    assert most(budget, width=10) == 1000


def test_a_record_that_fits_no_budget_leaves_it_as_it_is():
    budget = Budget(64, 1024)
    budget.measured(was_split(32, fitted=16, hopeless=1), 1.0)
    assert most(budget) == 64


def test_a_batch_planned_before_it_shrank_does_not_raise_it_again():
    budget = Budget(64, 1024)
    for positions in (64, 1024):
        budget.measured(was_split(positions, fitted=positions // 2), 1.0)
    assert most(budget) == 32


def test_what_is_configured_stays_however_fast_it_is():
    for budget in (Budget(64), Budget(64, 64)):
        run(budget, rising(2**30), 3 * RETRY)
        assert most(budget) == 64


def test_a_configured_budget_that_does_not_fit_shrinks_too_and_comes_back():
    budget = Budget(64)
    budget.measured(was_split(64, fitted=32), 1.0)
    assert most(budget) == 32
    run(budget, rising(2**30), RETRY)
    assert most(budget) == 64


def test_it_holds_so_many_positions_and_records():
    assert Budget(64).holds(1000, size(64))
    assert not Budget(64).holds(1, size(65))
    assert Budget(64, records=2).holds(2, size(64))
    assert not Budget(64, records=2).holds(3, size(64))
    assert most(Budget(64, records=2)) == 2
    assert math.isinf(Budget(64).bytes)


def test_it_climbs_no_further_than_a_batch_is_soon_done():
    budget = Budget(64, 2**13)
    seconds = [0.0]

    def rate(positions: int) -> float:  # always faster with more, yet ever slower to end
        seconds.append(positions**0.5 / 5)
        return positions / seconds[-1]

    run(budget, rate, 3 * RETRY)
    assert LONGEST_SECONDS / 4 < max(seconds) <= LONGEST_SECONDS


def test_a_large_model_begins_with_small_batches():
    cpu, cuda = TRAITS["cpu"], TRAITS["cuda"]
    assert start_tokens(cpu, 64, 3) == cpu.start_tokens
    assert start_tokens(cuda, 64, 3) == cuda.start_tokens
    large = start_tokens(cpu, 2304, 21)
    assert 16 <= large < start_tokens(cpu, 768, 21) < cpu.start_tokens
    assert 24 * 2304**2 * 21 * large <= cpu.start_flops
    assert start_tokens(cpu, 10**6, 21) == 16
