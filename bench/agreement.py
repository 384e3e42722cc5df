"""Whether the numbers of a way by hand are streamer's."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import streamer

PASSAGES = ("prompt", "fact", "hall")
METRICS = (
    "l0_norm",
    "l2_norm",
    "energy",
    "reconstruction_error",
    "gini",
    "dimensionality",
    "eigenvalue_entropy",
)
RELATIVE, ABSOLUTE = 1e-3, 1e-6
FEW = 0.05
"""Share of values that may differ: in float32, a feature at its threshold falls on either side."""


def disagreement(way: str, rows: Path, run: Path, layers: Sequence[int]) -> float:
    """The share of compared values in which the `rows` (JSON) of a way and the run differ.

    :raises SystemExit: it is more than a `FEW`, or a column differs in most records.
    """
    by_hand = json.loads(rows.read_text("utf-8"))
    measured = {row["row"]: row for row in streamer.open_run(run).table("metrics").to_pylist()}
    columns = [f"l{layer}_{p}_{m}" for layer in layers for p in PASSAGES for m in METRICS]
    columns += ["centroid_drift_fact", "centroid_drift_hall"]
    columns += [f"{name}_{p}" for name in ("entropy", "cross_layer_consistency") for p in PASSAGES]
    missing = [row["row"] for row in by_hand if row["row"] not in measured]
    if missing:
        raise SystemExit(f"streamer measured no records {missing} of {way}")
    shares = {
        column: statistics.mean(
            not _agree(row[column], measured[row["row"]][column]) for row in by_hand
        )
        for column in columns
    }
    worst = max(shares, key=lambda column: shares[column])
    share = statistics.mean(shares.values())
    if share > FEW or shares[worst] > 0.5:
        row = next(r for r in by_hand if not _agree(r[worst], measured[r["row"]][worst]))
        raise SystemExit(
            f"{way} and streamer differ in {share:.1%} of the values, most in "
            f"{worst}: record {row['row']} has {row[worst]} by hand and "
            f"{measured[row['row']][worst]} by streamer. One of the two is wrong."
        )
    return share


def _agree(one: float, other: float | None) -> bool:
    return other is not None and math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
