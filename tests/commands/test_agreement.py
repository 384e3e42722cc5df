"""What counts as rounding between two computations, and what is not compared."""

import numpy as np
import pytest
import torch

from streamer.commands.agreement import RULES, of_column, of_residual, short_rules
from streamer.tables import Column

FLOAT32, FLOAT64 = RULES[torch.float32], RULES[torch.float64]
BFLOAT16 = short_rules(torch.bfloat16)
COLUMNS = {
    "count": Column("count", "int32", discrete=True),
    "energy": Column("energy", rests_on=("count",)),
    "class": Column("class", "category", categories=("a", "b"), discrete=True, rests_on=("count",)),
    "stability": Column("stability", discrete=True, rests_on=("count",)),
}


def test_what_rests_on_a_feature_that_flipped_is_counted_not_compared():
    alone = {"count": np.array([3.0, 4, 5]), "energy": np.array([1.0, 2.0, 3.0])}
    batched = {"count": np.array([3.0, 5, 5]), "energy": np.array([1.0 + 1e-7, 2.5, 3.0])}
    energy = of_column("energy", COLUMNS, alone, batched, FLOAT32)
    assert energy.undecided == 1
    assert energy.relative == pytest.approx(1e-7, rel=1e-3)
    assert energy.holds  # one of three is rounded up to one
    assert not of_column("energy", COLUMNS, alone, batched, FLOAT64).holds
    assert of_column("count", COLUMNS, alone, batched, FLOAT32).undecided == 1


@pytest.mark.parametrize("rules", [FLOAT64, FLOAT32, BFLOAT16])
@pytest.mark.parametrize("records", [1, 2, 64])
def test_a_column_of_which_nothing_could_be_compared_does_not_agree(rules, records):
    alone = {"count": np.full(records, 5.0), "energy": np.ones(records)}
    batched = {"count": np.full(records, 6.0), "energy": np.ones(records)}
    for name in ("count", "energy"):
        found = of_column(name, COLUMNS, alone, batched, rules)
        assert found.undecided == found.values == records
        assert found.is_undecided
        assert not found.holds


@pytest.mark.parametrize(
    ("rules", "most"),
    [(FLOAT64, 0), (FLOAT32, 2), (BFLOAT16, 32)],  # of 64
)
def test_a_few_undecided_values_are_rounding_and_one_more_is_not(rules, most):
    alone = {"count": np.full(64, 5.0), "energy": np.ones(64)}
    for fell, holds in ((most, True), (most + 1, False)):
        batched = {"count": np.where(np.arange(64) < fell, 6.0, 5.0), "energy": np.ones(64)}
        assert of_column("energy", COLUMNS, alone, batched, rules).holds is holds


def test_where_both_are_null_there_is_nothing_to_agree():
    alone = {"count": np.zeros(64), "energy": np.full(64, np.nan)}
    alone["count"][:2], alone["energy"][:2] = 5, 1
    batched = {"count": alone["count"] + (alone["count"] > 0), "energy": alone["energy"]}
    energy = of_column("energy", COLUMNS, alone, batched, FLOAT32)
    assert (energy.undecided, energy.values) == (2, 2)
    assert not energy.holds


def test_in_a_short_format_one_feature_more_of_many_is_compared():
    alone = {"count": np.full(64, 90.0), "energy": np.ones(64)}
    batched = {"count": np.full(64, 91.0), "energy": np.full(64, 1.1)}
    assert of_column("energy", COLUMNS, alone, batched, FLOAT32).is_undecided
    energy = of_column("energy", COLUMNS, alone, batched, BFLOAT16)
    assert energy.relative == pytest.approx(0.1)
    assert energy.holds
    batched["energy"] += 0.2
    assert of_column("energy", COLUMNS, alone, batched, BFLOAT16).differs
    batched = {"count": np.full(64, 90.0), "class": np.ones(64)}
    alone["class"] = np.zeros(64)  # a class has no distance from another
    assert of_column("class", COLUMNS, alone, batched, BFLOAT16).is_undecided


def test_a_mean_of_ranks_that_was_added_up_in_another_order_is_the_same():
    alone = {"count": np.full(8, 90.0), "stability": np.full(8, 0.8)}
    batched = {"count": np.full(8, 90.0), "stability": np.full(8, np.nextafter(0.8, 1))}
    assert of_column("stability", COLUMNS, alone, batched, FLOAT64).holds
    batched["stability"][:] = 0.8 + 0.18 / 8  # another tenth feature in one of eight draws
    assert of_column("stability", COLUMNS, alone, batched, FLOAT32).undecided == 8


def test_a_residual_is_off_relative_to_its_own_norm():
    alone = np.zeros((2, 3, 4))
    alone[..., 0] = [[1.0, 1.0, 1.0], [1.0, 100.0, 1.0]]
    batched = alone.copy()
    batched[1, 1, 2] = 1e-3
    found = of_residual("residual", alone, batched, FLOAT32)
    assert (found.absolute, found.relative) == pytest.approx((1e-3, 1e-5))
    assert found.values == 6
    batched[0, 0, 2] = 2e-5
    found = of_residual("residual", alone, batched, FLOAT32)
    assert found.relative == pytest.approx(2e-5)
    assert found.differs
    assert of_residual("residual", alone, batched, BFLOAT16).holds


def test_a_record_that_is_rejected_in_its_batch_alone_is_a_difference_of_residuals():
    alone = np.ones((2, 3, 4))
    batched = alone.copy()
    batched[1] = np.nan
    assert not of_residual("residual", alone, batched, BFLOAT16).holds
    assert not of_residual("residual", batched, alone, BFLOAT16).holds
    both = of_residual("residual", batched, batched, FLOAT64)
    assert both.holds
    assert both.values == 3


def test_a_null_beside_a_number_is_a_difference():
    alone = {"count": np.zeros(1), "energy": np.array([np.nan])}
    batched = {"count": np.zeros(1), "energy": np.array([1.0])}
    energy = of_column("energy", COLUMNS, alone, batched, FLOAT64)
    assert not energy.holds


def test_every_column_knows_the_counts_that_it_rests_on(loaded):
    behind = {column.name: set(column.rests_on) for column in loaded.columns}
    assert set().union(*behind.values()) <= behind.keys()
    assert all(behind.values())
    assert behind["l3_hall_eigenvalue_entropy"] == {"l3_hall_l0_norm"}
    assert behind["entropy_fact"] == {"l1_fact_l0_norm"}
    assert behind["centroid_drift_hall"] == {"l1_hall_l0_norm", "l1_prompt_l0_norm"}
    assert behind["cross_layer_consistency_diff"] == {
        f"l{layer}_{passage}_l0_norm" for layer in (3, 5) for passage in ("fact", "hall")
    }


def test_a_difference_is_as_exact_as_its_parts(loaded):
    columns = {column.name: column for column in loaded.columns}
    names = ("axis_twist_fact", "axis_twist_hall", "axis_twist_diff")
    counts = {count: np.ones(1) for count in columns["axis_twist_diff"].rests_on}
    alone = counts | dict(zip(names, np.array([[80.0], [80.5], [0.5]]), strict=True))
    batched = alone | {"axis_twist_diff": np.array([0.508])}
    found = of_column("axis_twist_diff", columns, alone, batched, FLOAT32)
    assert found.relative == pytest.approx(0.008 / 80.5)
    assert found.allowed == 1e-2
