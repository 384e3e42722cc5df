"""How far a short format is from float32: for `streamer verify --bf16`."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from streamer.commands.distance import Distance, distances_of, in_float32, in_words
from streamer.commands.measuring import Measured
from streamer.commands.sample import take_sample
from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.planning.packing import Packing
from streamer.records import TokenizedRecord
from streamer.tables import Column
from support.commands import command

COLUMNS = {
    "l1_text_l0_norm": Column("l1_text_l0_norm", "int32", discrete=True, metric="l0_norm"),
    "energy": Column("energy", metric="energy", rests_on=("l1_text_l0_norm",)),
    "class": Column("class", "category", categories=("a", "b"), discrete=True, metric="class"),
}


def columns_off(
    exact: dict[str, list[float]], short: dict[str, list[float]]
) -> dict[str, Distance]:
    """How far the columns of `short` are from those of `exact`, by name."""
    both = [
        Measured({name: np.array(values) for name, values in one.items()}, {})
        for one in (exact, short)
    ]
    _, found = distances_of(*both, {name: COLUMNS[name] for name in exact})
    return {one.name: one for one in found}


def test_a_column_is_off_relative_to_its_value_in_float32():
    found = columns_off({"energy": [1.0, 10.0, 100.0]}, {"energy": [1.1, 10.0, 101.0]})["energy"]
    assert (found.largest, found.median) == pytest.approx((0.1, 0.01))
    assert (found.changed, found.values) == (0, 3)


def test_other_classes_and_nulls_are_counted():
    nan = float("nan")
    found = columns_off(
        {"class": [0, 1, 1, nan], "energy": [1.0, nan, nan, 2.0]},
        {"class": [0, 0, 1, nan], "energy": [1.0, nan, 2.0, nan]},
    )
    assert (found["class"].changed, found["class"].values, found["class"].largest) == (1, 3, 0)
    assert (found["energy"].changed, found["energy"].values) == (2, 3)


def test_a_feature_where_there_was_none_counts_as_one():
    assert columns_off({"l1_text_l0_norm": [0.0]}, {"l1_text_l0_norm": [2.0]})[
        "l1_text_l0_norm"
    ].largest == pytest.approx(2)


def test_the_furthest_come_first_by_their_median():
    found = columns_off(
        {"energy": [1.0, 1.0, 1.0], "l1_text_l0_norm": [10, 10, 10]},
        {"energy": [1.0, 1.0, 9.0], "l1_text_l0_norm": [11, 11, 11]},
    )
    assert list(found) == ["l1_text_l0_norm", "energy"]


def test_only_products_in_a_short_format_are_compared_with_float32():
    for short in ({"bf16": True}, {"fp16": True}):
        longer = in_float32(RunConfig(**short, limit=3))
        assert longer == RunConfig(limit=3)
    assert in_float32(RunConfig(dtype="float64")) is None


def test_the_sentence_names_residuals_counts_and_the_furthest_column():
    residuals = [Distance("residual at layer 5", "residual", 0.02, 0.004, 0, 9)]
    columns = [
        Distance("axis_twist_diff", "axis_twist_diff", 1.5, 0.03, 0, 3),
        Distance("l5_text_l0_norm", "l0_norm", 0.1, 1e-7, 0, 3),
    ]
    assert in_words("bfloat16", residuals, columns) == (
        "bfloat16 against float32: residuals are off by 0.4 % of their norm (median; at most 2 %), "
        "l0_norm by under 0.001 % (median; at most 10 %), and most of all axis_twist_diff by 3 % "
        "(median; at most 150 %)"
    )


@pytest.mark.parametrize("flag", ["--bf16", "--fp16"])
def test_verify_says_how_far_a_short_format_is_from_float32_on_this_data(flag, capsys):
    assert command("verify", flag, "--device", "cpu", "--records", "6") == 0
    printed = capsys.readouterr().out
    assert "How far bfloat16 is from float32" in printed
    assert printed.count("and 115 more columns, at most ") == 2
    said = re.search(r"residuals are off by (\S+) % of their norm", printed)
    assert said is not None

    records = take_sample(RunConfig(), 6).records
    exact, short = (
        residuals_of(load_worker(config, "contrast"), records)
        for config in (RunConfig(device="cpu"), RunConfig(device="cpu", bf16=True))
    )
    off = np.linalg.norm(short - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
    furthest = 100 * np.median(off, axis=1).max()
    assert float(said[1]) == pytest.approx(furthest, rel=0.3)  # in batches, it is rounded elsewhere


def residuals_of(worker: Worker, records: Sequence[TokenizedRecord]) -> np.ndarray:
    """[layer, passage, d_model], a text at a time."""
    one = Packing("none", 1)
    return np.concatenate(
        [
            worker.model.residuals(one.pack_passages([ids])).to(torch.float64).numpy()
            for record in records
            for ids in record.tokens
        ],
        axis=1,
    )
