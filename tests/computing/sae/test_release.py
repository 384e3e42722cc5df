"""What is read from the hub: at the revision that was asked for, and no pickles."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

import streamer
from streamer.computing.model.find import model_path
from streamer.computing.sae.find import sae_locations
from streamer.computing.sae.release import loader_of
from streamer.config import RunConfig
from streamer.errors import UsageError
from support.models import make_model, make_saes
from support.processes import run


def publish(cache: Path, repository: str, folder: Path, commit: str, *names: str) -> None:
    """Put `folder` into the hub's local `cache` as `commit` of `repository`, which is what its
    branches or tags `names` are."""
    there = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, there / "snapshots" / commit)
    (there / "refs").mkdir(exist_ok=True)
    for name in names:
        (there / "refs" / name).write_text(commit)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """A folder with an input, and a local cache with two commits of a model and of its SAEs."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "in.jsonl").write_text('{"text": "The sky is blue"}\n')
    saes = folder / "saes"
    make_saes(saes, (1,))
    for place, names in enumerate((("v1",), ("main", "v2"))):
        model = make_model(folder / str(place), "llama", initializer_range=0.02 * (place + 1))
        publish(folder / "cache", "me/llama", model, f"{place}" * 40, *names)
        publish(folder / "cache", "me/saes", saes, f"{place + 2}" * 40, *names)
    return folder


def measure(hub: Path, *arguments: str) -> str:
    """What `streamer run` says on standard error of the input and model in `hub`."""
    offline = {"HF_HUB_CACHE": str(hub / "cache"), "HF_HUB_OFFLINE": "1"}
    model = ["--model", "me/llama", "--sae", "me/saes/sae_{layer}", "--layers", "1"]
    command = ["run", "in.jsonl", *model, "--progress", "none", *arguments]
    return run(*command, folder=hub, env=os.environ | offline).stderr


def test_a_hub_model_and_its_saes_are_read_at_the_revision_asked_for(hub):
    old = ["--revision", "v1", "--sae-revision", "v1"]
    assert measure(hub, "--out", "OLD", *old) == ""
    assert measure(hub, "--out", "NEW") == ""
    found = {name: streamer.open_run(hub / name) for name in ("OLD", "NEW")}
    commits = {
        name: (one.manifest["model"]["revision"], one.manifest["saes"][0]["revision"])
        for name, one in found.items()
    }
    assert commits == {"OLD": ("0" * 40, "2" * 40), "NEW": ("1" * 40, "3" * 40)}
    energy = [one.table("metrics")["l1_text_energy"] for one in found.values()]
    assert energy[0] != energy[1]


def test_a_run_does_not_go_on_with_another_commit(hub):
    assert measure(hub, "--out", "RUN", "--revision", "v1") == ""
    manifest = hub / "RUN" / "manifest.json"
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(said | {"status": "stopped"}))
    assert "revision was 0000" in measure(hub, "--out", "RUN", "--revision", "v2")
    assert measure(hub, "--out", "RUN", "--revision", "0" * 40) == ""


def test_a_revision_that_is_not_there_is_told(hub):
    assert "me/llama at v3" in " ".join(measure(hub, "--revision", "v3").split())


def test_a_local_directory_has_no_revision():
    with pytest.raises(UsageError, match=r"is a local directory.*Leave --revision out"):
        model_path(RunConfig(revision="main"))
    with pytest.raises(UsageError, match=r"is a local directory.*Leave --sae-revision out"):
        sae_locations(RunConfig(sae_revision="main"))


def release_of(loader: str) -> str:
    """A release that SAELens loads with `loader`."""
    known = get_pretrained_saes_directory().items()
    return next(name for name, release in known if release.conversion_func == loader)


def test_a_pickled_sae_is_refused_before_it_is_downloaded(tmp_path):
    load = torch.load
    converter = loader_of(release_of("deepseek_r1"), None, trusted=False)
    with pytest.raises(UsageError, match="stored as a pickle"):
        converter("me/none", "sae.pt", "cpu", False, {})
    assert torch.load is load  # nobody else's pickles are refused


def test_a_pickled_sae_is_read_if_it_is_trusted(tmp_path, monkeypatch):
    weights = {f"{side}.{part}": torch.ones(2, 2) for side in ("encoder", "decoder") for part in
               ("weight", "bias")}  # fmt: skip
    (tmp_path / "saes").mkdir()
    torch.save(weights, tmp_path / "saes" / "sae_l1.pt")
    publish(tmp_path / "cache", "me/pickle", tmp_path / "saes", "a" * 40, "main")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    converter = loader_of(release_of("deepseek_r1"), None, trusted=True)
    _, state, _ = converter("me/pickle", "sae_l1.pt", "cpu", False, {})
    assert state["W_dec"].equal(torch.ones(2, 2))
