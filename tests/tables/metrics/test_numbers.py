"""Batched numbers are those of one text at a time in float64, by other means (see `reference`).

Largest differences, relative to the value, measured on the 200 embedded records in batches of 16:

                                              float32    float64
    counts, classes, stability                none       none
    magnitudes, reconstruction_error          8e-7       1e-15
    gini, entropies                           1e-6       4e-15
    shape ratios, dimensionality              5e-7       2e-15
    angles, at gaps down to 1/40              2e-6       5e-15
    cross_layer_consistency                   3e-6       6e-15

So a plain relative tolerance does, but for what is a difference of larger things: differences
(relative to the larger of the two), gini (to 1) and angles (to a radian over the gap).

In float32 pre-activations were off by up to 4.6e-7 ‖x‖·‖w‖, and residuals by 1.2e-6 ‖x‖. A feature
within 1e-6 ‖x‖·‖w‖ of its threshold may fall either way, so nothing is asked of what rests on it:
0.1% of the values, all of which agreed nevertheless.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from streamer.computing.load import load_worker
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.embedded import LAYERS, MODEL, SAES
from streamer.planning.packing import Packing
from streamer.records import PASSAGES
from support.agreement import disagreements
from support.measured import ROUNDING, Measured, Texts, contrast_texts, measured
from support.reference import Value
from support.reference_rows import Reference

RESIDUALS = {"float32": 2e-6, "float64": 1e-9}
"""How far a residual may lie from the reference's, relative to its norm."""


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(MODEL, SAES, LAYERS, PASSAGES["contrast"])


@pytest.fixture(scope="module")
def texts() -> list[Texts]:
    """The embedded records (4 to 26 tokens), and one longer than the model's sliding window."""
    found = contrast_texts()
    long = " ".join(prompt for prompt, _, _ in found[:15])
    return [*found, (long, f"{long} yes", f"{long} no, not at all")]


@pytest.fixture(scope="module")
def expected(reference: Reference, texts: list[Texts]) -> list[dict[str, Value]]:
    return [reference.record(passages) for passages in texts]


@pytest.fixture(scope="module")
def workers(embedded_worker: Callable[[str], Worker]) -> dict[str, Worker]:
    double = load_worker(RunConfig(dtype="float64", device="cpu"), "contrast")
    return {"float32": embedded_worker("contrast"), "float64": double}


@pytest.mark.parametrize(("size", "every"), [(1, 5), (3, 5), (16, 1)])
def test_a_batch_agrees_with_one_text_at_a_time(workers, texts, expected, size, every):
    found = measured(workers["float32"], texts[:-1:every], size)
    assert disagreements(expected[:-1:every], found, ROUNDING["float32"]) == []


def test_in_double_precision_a_batch_agrees_to_a_billionth(workers, texts, expected):
    found = measured(workers["float64"], texts[:-1:4], 16)
    assert disagreements(expected[:-1:4], found, ROUNDING["float64"]) == []


@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_shuffled_batch_of_mixed_lengths_agrees(workers, texts, expected, dtype):
    order = np.random.default_rng(0).permutation([len(texts) - 1, *range(0, 200, 20)])
    found = measured(workers[dtype], [texts[place] for place in order], len(order))
    assert disagreements([expected[place] for place in order], found, ROUNDING[dtype]) == []


@pytest.mark.parametrize("sharing", ["trie", "prefix", "none"])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_residual_is_the_one_of_the_text_alone_however_packed(
    workers, texts, reference, dtype, sharing
):
    chosen = [texts[-1], *texts[::20]]
    ids = [reference.model.tokens(text) for passages in chosen for text in passages]
    model = workers[dtype].model
    found = model.residuals(Packing(sharing, 64).pack_passages(ids)).double().cpu().numpy()
    for place, tokens in enumerate(ids):
        x = reference.model.residuals(tokens)[list(LAYERS)]
        distance = np.linalg.norm(found[:, place] - x, axis=-1)
        assert (distance <= RESIDUALS[dtype] * np.linalg.norm(x, axis=-1)).all()


@pytest.mark.parametrize("sharing", ["trie", "prefix", "none"])
def test_what_stands_in_the_padding_is_never_read(workers, texts, reference, sharing):
    ids = [reference.model.tokens(text) for text in texts[-1][:1] + texts[0]]
    rows = Packing(sharing, 32).pack_passages(ids)
    padding = (rows.ends == np.arange(1, rows.ends.shape[1] + 1)) & (rows.depths == 0)
    assert padding.any()
    other = replace(rows, tokens=np.where(padding, 77, rows.tokens))
    model = workers["float32"].model
    assert model.residuals(rows).equal(model.residuals(other))


@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_padded_row_equals_the_row_alone(workers, texts, expected, dtype):
    (alone,) = measured(workers[dtype], texts[:1], 1)
    padded, _ = measured(workers[dtype], [texts[0], texts[-1]], 2)
    assert disagreements([as_expected(alone, expected[0])], [padded], ROUNDING[dtype]) == []


@pytest.mark.parametrize("dtype", ROUNDING)
def test_equal_texts_differ_in_nothing_but_identity(workers, texts, expected, dtype):
    first, other, _, second = measured(workers[dtype], [texts[place] for place in (3, 0, 1, 3)], 4)
    assert disagreements([as_expected(first, expected[3])], [second], ROUNDING[dtype]) == []
    assert first != other


def as_expected(found: Measured, like: dict[str, Value]) -> dict[str, Value]:
    """What was found once, to be compared with what is found again."""
    return {name: value._replace(value=found[name]) for name, value in like.items()}
