"""Which names a model goes by: what SAEs were trained on is compared with them."""

import json
import shutil
from types import SimpleNamespace

import pytest

from streamer.computing.load import load_worker
from streamer.computing.model.identity import identity_of
from streamer.config import RunConfig
from streamer.errors import UsageError
from support.models import make_model, make_sae


def called(path: str, name: str) -> bool:
    """Whether the model at `path` goes by `name`."""
    bridge = SimpleNamespace(original_model=SimpleNamespace(config=SimpleNamespace()))
    config = RunConfig(model=path, sae="none/{layer}", layers=(1,))
    return identity_of(bridge, config, path).is_called(name)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("google/gemma-2-2b", "gemma-2-2b"),
        ("google/gemma-2-2b", "google/gemma-2-2b"),
        ("openai-community/gpt2", "gpt2-small"),
        ("gpt2", "gpt2-small"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/llama-3.1-8b"),
        ("someone/their-own", "their-own"),
    ],
)
def test_a_hub_model_goes_by_its_name_with_and_without_its_owner(model, name):
    assert called(model, name)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("unsloth/gemma-2-2b", "gemma-2-2b"),  # TransformerLens knows whose that is
        ("unsloth/gemma-2-2b", "google/gemma-2-2b"),
        ("someone/their-own", "others/their-own"),
        ("google/gemma-2-2b-it", "gemma-2-2b"),
    ],
)
def test_another_owners_model_of_the_same_name_is_another(model, name):
    assert not called(model, name)


@pytest.fixture
def tuned(tmp_path):
    """A model of a directory's own name, whose config.json says the base model's."""
    llama = make_model(tmp_path, "llama")
    tuned = tmp_path / "my-tuned"
    shutil.copytree(llama, tuned)
    file = tuned / "config.json"
    said = {"_name_or_path": "meta-llama/Llama-Base"}
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    return tuned


def settings(model, sae) -> RunConfig:
    return RunConfig(model=str(model), sae=str(sae), layers=(1,))


def test_what_only_its_config_says_is_believed_and_noted(tmp_path, tuned):
    sae = make_sae(tmp_path / "sae", 1, model_name="Llama-Base")
    (note,) = load_worker(settings(tuned, sae), "text").model.notes[:1]
    assert "trained on Llama-Base, which the model is by _name_or_path in its config.json" in note
    sae = make_sae(tmp_path / "other", 1, model_name="someone/Llama-Base")
    with pytest.raises(UsageError, match=r"the model is meta-llama/llama-base or my-tuned\."):
        load_worker(settings(tuned, sae), "text")
