"""SAEs of a million features: few passages fill the memory, however few their positions are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig

from support.memory import group_of
from support.models import make_model
from support.processes import run_python

D_MODEL, D_SAE, RECORDS = 16, 2**20, 160
"""The features of all take 1.3 GB, and more while they are made."""
RUN = """
import resource, sys
from pathlib import Path
import torch

torch.set_num_threads(1)
from streamer.computing.load import load_worker
from streamer.config import RunConfig
from support.runs import run_with

model, sae, spare = sys.argv[1:]
worker = load_worker(RunConfig(model=model, sae=sae, layers=(0,), device="cpu"), "text")
if int(spare):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(spare)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
run, summary = run_with(worker, paths=["in.jsonl"], out="RUN")
counts = run.manifest["counts"]
print(run.table("metrics").num_rows, counts["rejected"], counts["out_of_memory_splits"])
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> list[str]:
    """A tiny model, and an SAE of a million features in which few are active."""
    folder = tmp_path_factory.mktemp("wide")
    model = make_model(folder, "llama", hidden_size=D_MODEL, head_dim=4)
    sae = StandardSAE(StandardSAEConfig(d_in=D_MODEL, d_sae=D_SAE))
    with torch.no_grad():
        sae.W_enc[:, 64:] = 0
    sae.save_model(str(folder / "sae"))
    return [str(model), str(folder / "sae")]


@pytest.fixture
def folder(tmp_path) -> Path:
    """With the records."""
    lines = [json.dumps({"text": f"The river {n} is wide"}) + "\n" for n in range(RECORDS)]
    (tmp_path / "in.jsonl").write_text("".join(lines), "utf-8")
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
def test_no_batch_is_tried_that_does_not_fit_the_address_space(folder, wide):
    done = run_python("-c", RUN, *wide, str(2**30), folder=folder, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(RECORDS), "0", "0"], "all measured, nothing split"


def test_a_run_in_a_control_group_is_not_killed_for_its_first_batches(folder, wide):
    with group_of(1200 * 2**20) as enter:
        command = [*enter, sys.executable, "-c", RUN, *wide, "0"]  # all its memory is the group's
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=900, check=False, cwd=folder
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(RECORDS), "0", "0"]
