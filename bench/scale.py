"""What a record costs as the input grows: rate and peak memory must not depend on its length.

    python -m bench.scale [--sizes 1000,10000,100000] [--repeats 3] [--device cpu]

Runs the command itself, a process for each size and repeat, on a model of one tiny layer and texts
of a few tokens: what is measured is not the model but all that is around it. The rate is that of
the run without loading the model. The steady rate leaves out its beginning and end, too: it is that
of the records beyond the smallest size. Ratios are to the size 10,000, or the second where that is
not run. All figures are medians.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.saes.sae import SAEMetadata
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from transformers.utils import logging

from bench.options import Row
from bench.processes import run_alone
from bench.report import report
from streamer import embedded, open_run

D_MODEL, D_SAE = 16, 32
CONTEXT = 256
REFERENCE = 10_000
FULL = "1000,10000,100000,1000000"
DEFAULT = "1000,10000,100000"


def main(arguments: list[str] | None = None) -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=DEFAULT, help=f"in full: {FULL}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
        turns = [
            {size: _measure(Path(folder), model, size, options.device) for size in sizes}
            for _ in range(options.repeats)
        ]
    found = [_middle([turn[size] for turn in turns]) for size in sizes]
    first = found[0]
    for one in found:
        more = one["records"] - first["records"]
        seconds = one["seconds"] - first["seconds"]
        # of tiny inputs the difference can be none
        one["steady_per_second"] = more / seconds if more and seconds > 0 else None
    references = [one for one in found if one["records"] == REFERENCE]
    reference = (references or found[1:] or found)[0]
    rows = [
        {
            **one,
            "steady_ratio": _ratio(one["steady_per_second"], reference["steady_per_second"]),
            "more_memory_mb": one["peak_memory_mb"] - reference["peak_memory_mb"],
        }
        for one in found
    ]
    report(
        "scale",
        rows,
        d_model=D_MODEL,
        d_sae=D_SAE,
        layers=1,
        device=options.device,
        repeats=options.repeats,
    )


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None


def _middle(turns: Sequence[Row]) -> Row:
    """Medians."""
    return {key: median(turn[key] for turn in turns) for key in turns[0]}


def make_model(folder: Path) -> list[str]:
    """The flags that name a tiny random model and SAE, made in `folder`."""
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(str(embedded.MODEL))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        intermediate_size=2 * D_MODEL,
        max_position_embeddings=CONTEXT,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))
    metadata = SAEMetadata(hook_name="blocks.0.hook_resid_post", prepend_bos=True)
    sae = StandardSAE(StandardSAEConfig(d_in=D_MODEL, d_sae=D_SAE, metadata=metadata))
    sae.save_model(str(folder / "sae"))
    return ["--model", str(folder / "model"), "--sae", str(folder / "sae"), "--layers", "0"]


def _measure(folder: Path, model: list[str], size: int, device: str) -> Row:
    path, out = folder / f"{size}.jsonl", folder / "RUN"
    with path.open("w") as file:
        for place in range(size):
            file.write(json.dumps({"text": f"Record {place} of many."}) + "\n")
    command = [sys.executable, "-m", "streamer", "run", str(path), "--out", str(out), *model]
    begin = time.monotonic()
    _, peak = run_alone([*command, "--device", device, "--progress", "none"])
    in_all = time.monotonic() - begin
    manifest: dict[str, Any] = open_run(out).manifest
    shutil.rmtree(out)
    counts = manifest["counts"]
    if counts["rows"] != size:
        raise SystemExit(f"{counts['rows']} of {size} records were measured, the others rejected")
    return {
        "records": size,
        "seconds_in_all": in_all,
        "seconds": manifest["seconds"],
        "records_per_second": size / manifest["seconds"],
        "max_tokens": manifest["max_tokens"],
        "peak_memory_mb": peak,
        **{f"{stage}_s": spent for stage, spent in manifest["stage_seconds"].items()},
    }


if __name__ == "__main__":
    main()
