"""How much a batch may hold: more while that is faster, less where it did not fit."""

import itertools
from collections.abc import Callable

import pytest

from streamer.computing.starting_budget import start_tokens
from streamer.device.traits import TRAITS
from streamer.planning.budget import (
    FULL,
    LONGEST_SECONDS,
    RETRY,
    SMALLEST,
    TRIALS,
    Budget,
    Headroom,
)
from streamer.records import Work


def rising(to: int) -> Callable[[int], float]:
    """Tokens a second that double with the batch up to `to` positions, and no further."""
    return lambda positions: float(min(positions, to))


def run(budget: Budget, rate: Callable[[int], float], batches: int, share: float = 1.0) -> None:
    for _ in range(batches):
        n = int(share * budget.tokens)
        budget.measured(Work(distinct=n, positions=n), n / rate(n))


def settled(budget: Budget, rate: Callable[[int], float]) -> int:
    run(budget, rate, 20 * TRIALS)
    return budget.tokens


def test_it_climbs_while_that_is_faster_and_settles_where_it_is_not():
    assert settled(Budget(16, 2**18), rising(1024)) == 1024
    assert settled(Budget(16, 2**18), rising(64)) == 64
    assert settled(Budget(16, 2**18), rising(16)) == 16


@pytest.mark.parametrize("most", [16, 17, 1000, 1024, 5000])
def test_it_never_climbs_beyond_the_most(most):
    budget = Budget(16, most)
    for _ in range(3 * RETRY):
        run(budget, rising(2**30), 1)
        assert budget.tokens <= most
    assert 2 * budget.tokens > most


def test_a_step_takes_a_few_full_batches_of_which_the_first_is_warm_up():
    budget = Budget(16, 1024)
    run(budget, rising(1024), TRIALS - 1)
    assert budget.tokens == 16
    run(budget, rising(1024), 1)
    assert budget.tokens == 32
    # were the slow first batch counted, 32 would look no faster than 16
    budget.measured(Work(distinct=32, positions=32), 1e6)
    run(budget, rising(1024), TRIALS - 1)
    assert budget.tokens == 64


def test_a_batch_that_does_not_fill_the_budget_says_nothing():
    budget = Budget(100, 1000)
    run(budget, rising(1000), 100 * TRIALS, share=FULL - 0.05)
    assert budget.tokens == 100
    run(budget, rising(1000), TRIALS, share=FULL + 0.05)
    assert budget.tokens == 200


def test_it_climbs_no_further_than_memory_is_predicted_to_last():
    free = 10_000  # bytes, and each position takes ten

    def headroom(budget: Budget) -> Headroom:
        return Headroom(used=10 * budget.tokens, free=free - 10 * budget.tokens)

    budget = Budget(16, 2**18, headroom=lambda: headroom(budget))
    for _ in range(2 * RETRY):
        run(budget, rising(2**30), 1)
        assert 10 * budget.tokens <= free
    assert budget.tokens == 512  # 1024 positions would take all that there is


def test_it_looks_at_memory_before_it_climbs_and_not_after():
    asked = []

    def headroom() -> Headroom:
        asked.append(budget.tokens)
        return Headroom(used=1, free=0)

    budget = Budget(16, 1024, headroom=headroom)
    run(budget, rising(1024), TRIALS)
    assert asked == [16]
    assert budget.tokens == 16


def test_once_settled_it_tries_again_after_many_batches():
    budget = Budget(16, 2**18)
    assert settled(budget, rising(64)) == 64
    seen = []
    for _ in range(RETRY + 3 * TRIALS):
        run(budget, rising(256), 1)  # what came first was slow to read, say
        seen.append(budget.tokens)
    waited = len(list(itertools.takewhile(lambda tokens: tokens == 64, seen)))
    assert RETRY // 2 < waited <= RETRY + TRIALS
    assert settled(budget, rising(256)) == 256


def test_a_batch_that_was_split_keeps_it_at_what_did_fit_for_good():
    budget = Budget(64, 2**18)
    run(budget, rising(2**30), 2 * TRIALS)
    assert budget.tokens == 256
    budget.measured(Work(distinct=256, positions=256, splits=1, largest=128), 1.0)
    assert budget.tokens == 128
    for _ in range(3 * RETRY):
        run(budget, rising(2**30), 1)
        assert budget.tokens == 128


def test_a_record_that_fits_no_budget_leaves_it_as_it_is():
    budget = Budget(64, 1024)
    budget.measured(Work(distinct=32, positions=32, splits=3, largest=16, hopeless=1), 1.0)
    assert budget.tokens == 64


def test_a_batch_planned_before_it_shrank_does_not_raise_it_again():
    budget = Budget(64, 1024)
    for positions in (64, 1024):
        budget.measured(
            Work(distinct=positions, positions=positions, splits=1, largest=positions // 2), 1.0
        )
    assert budget.tokens == 32


def test_it_never_shrinks_to_nothing():
    budget = Budget(64, 1024)
    for _ in range(20):
        budget.measured(Work(distinct=64, positions=64, splits=1, largest=budget.tokens // 2), 1.0)
    assert budget.tokens == SMALLEST


def test_what_is_configured_stays_however_fast_it_is():
    for budget in (Budget(64), Budget(64, 64)):
        run(budget, rising(2**30), 3 * RETRY)
        assert budget.tokens == 64


def test_a_configured_budget_that_does_not_fit_shrinks_too():
    budget = Budget(64)
    budget.measured(Work(distinct=64, positions=64, splits=1, largest=32), 1.0)
    assert budget.tokens == 32


def test_it_holds_so_many_positions_and_records():
    assert Budget(64).holds(1000, 64)
    assert not Budget(64).holds(1, 65)
    assert Budget(64, records=2).holds(2, 64)
    assert not Budget(64, records=2).holds(3, 64)


def test_it_climbs_no_further_than_a_batch_is_soon_done():
    budget = Budget(64, 2**18)
    seconds = [0.0]

    def rate(positions: int) -> float:  # always faster with more, yet ever slower to end
        seconds.append(positions**0.5 / 10)
        return positions / seconds[-1]

    run(budget, rate, 3 * RETRY)
    assert LONGEST_SECONDS / 4 < max(seconds) <= LONGEST_SECONDS


def test_a_large_model_begins_with_small_batches_and_so_does_one_with_little_memory():
    free = 16 * 2**30
    cpu, cuda = TRAITS["cpu"], TRAITS["cuda"]
    assert start_tokens(cpu, 64, 3, free) == cpu.start_tokens
    assert start_tokens(cuda, 64, 3, free) == cuda.start_tokens
    large = start_tokens(cpu, 2304, 21, free)
    assert 16 <= large < start_tokens(cpu, 768, 21, free) < cpu.start_tokens
    assert 24 * 2304**2 * 21 * large <= cpu.start_flops
    scarce = start_tokens(cuda, 2304, 21, 2**30)
    assert scarce < start_tokens(cuda, 2304, 21, free)
    assert start_tokens(cuda, 2304, 21, 0) == 16
