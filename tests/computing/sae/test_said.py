"""What an SAE says of itself, and what its silence means."""

import json
from pathlib import Path
from typing import Any

import pytest
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from streamer.computing.load import load_worker
from streamer.computing.sae.find import find_saes
from streamer.computing.sae.processing import Processing
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.errors import UsageError
from support.models import make_model, make_sae


def load(model: Path, sae: Path, **settings: Any) -> Worker:
    return load_worker(RunConfig(model=str(model), sae=str(sae), layers=(1,), **settings), "text")


@pytest.mark.parametrize(
    "said",
    [
        {"context_size": "128"},
        {"context_size": True},
        {"prepend_bos": "yes"},
        {"model_from_pretrained_kwargs": ["fold_ln"]},
        {"seqpos_slice": 5},
        {"activation_fn_kwargs": "signed"},
        {"model_name": 7},
    ],
)
def test_what_is_of_a_wrong_type_is_told_before_anything_is_measured(tmp_path, said):
    (key,) = said
    model, sae = make_model(tmp_path, "llama"), make_sae(tmp_path / "sae", 1)
    file = sae / "cfg.json"
    whole = json.loads(file.read_text())
    whole |= {"metadata": whole["metadata"] | said, **said}
    file.write_text(json.dumps(whole))
    with pytest.raises(UsageError, match=rf"says {key} = .*, which is no .*cfg.json"):
        load(model, sae)


def test_an_old_configuration_says_nothing_of_bos(tmp_path):
    """SAELens makes it true."""
    model, sae = make_model(tmp_path, "llama"), make_sae(tmp_path / "sae", 1)
    said = json.loads((sae / "cfg.json").read_text())
    kept = {"d_in", "d_sae", "dtype", "architecture"} & said.keys()
    (sae / "cfg.json").write_text(json.dumps({key: said[key] for key in kept}))
    worker = load(model, sae)
    assert any("the metadata lack" in note and "prepend_bos" in note for note in worker.model.notes)


def test_an_sae_without_a_revision_is_of_the_main_one(tmp_path):
    """A checkpoint of the model has another name on the hub, and the same to an SAE."""
    model, sae = make_model(tmp_path, "llama"), make_sae(tmp_path / "sae", 1)
    config = RunConfig(model=str(model), sae=str(sae), layers=(1,))
    loaded = load(model, sae)

    def of(revision):
        changed = config.model_copy(update={"revision": revision})
        return Processing(changed, loaded.model).of(loaded.saes[0].sae, str(sae), 0).notes

    assert of(None) == of("main") == ()
    (note,) = of("step1000")
    assert note.startswith("measured on the model's revision step1000; it does not say")


def test_the_directory_of_saelens_knows_better_of_which_model_a_release_is(monkeypatch):
    monkeypatch.setattr("streamer.computing.sae.find.require_on_hub", lambda *_: None)
    release = "llama_scope_r1_distill"
    ids = get_pretrained_saes_directory()[release].saes_map
    template = next(iter(ids))
    config = RunConfig(model="m", sae=f"{release}/{template}", layers=(1,))
    (found,) = find_saes(config)
    assert found.model == "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
