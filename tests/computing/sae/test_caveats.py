"""What is measured all the same is said once, and stands in the manifest."""

import json
from pathlib import Path
from typing import Any

import pytest

from streamer.computing.load import load_worker
from streamer.config import RunConfig
from streamer.errors import UsageError
from support.models import make_model, make_sae
from support.runs import run_with

WHOLE = {"model_name": "llama", "context_size": 256}


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


def loaded(model: Path, folder: Path, *, layers: tuple[int, ...] = (0, 1), **settings: Any) -> Any:
    config = RunConfig(model=str(model), sae=f"{folder}/sae_{{layer}}", layers=layers, **settings)
    return load_worker(config, "text")


def saes(folder: Path, *layers: int, **said: Any) -> Path:
    for layer in layers:
        make_sae(folder / f"sae_{layer}", layer, **WHOLE | said)
    return folder


def test_passages_longer_than_the_saes_texts_are_told_when_there_are_any(tmp_path, llama):
    worker = loaded(llama, saes(tmp_path, 0, 1, context_size=9))
    (tmp_path / "in.jsonl").write_text('{"text": "The sky"}\n')
    how = {"paths": [str(tmp_path / "in.jsonl")], "field": {"text": "text"}}
    run, _ = run_with(worker, out=tmp_path / "SHORT", **how)
    assert run.manifest["notes"] == []
    assert [one["context_size"] for one in run.manifest["saes"]] == [9, 9]
    (tmp_path / "in.jsonl").write_text('{"text": "The sky is blue, and blue is the sky again"}\n')
    run, _ = run_with(worker, out=tmp_path / "LONG", **how)
    assert run.manifest["notes"] == [
        "SAEs of layers 0, 1: trained on texts of at most 9 tokens, and longer passages are "
        "measured"
    ]
    assert run.manifest["notes"][0] in (tmp_path / "LONG" / "log.jsonl").read_text()


@pytest.mark.parametrize(
    ("said", "settings", "note"),
    [
        ({}, {}, None),
        ({"prepend_bos": False}, {"prepend_bos": True}, "trained without BOS, and measured with"),
        ({"prepend_bos": True}, {"prepend_bos": False}, "trained with BOS, and measured without"),
        ({"seqpos_slice": [5, -5]}, {}, r"positions 5:-5 of texts alone"),
        ({"seqpos_slice": [None]}, {}, None),
        ({"model_name": None, "prepend_bos": None}, {}, "lack model_name, prepend_bos"),
        ({"whitening_statistics": "w.pt"}, {}, "nothing is made of metadata.whitening_statistics"),
    ],
)
def test_a_caveat_is_told_once_for_all_layers(tmp_path, llama, said, settings, note):
    notes = loaded(llama, saes(tmp_path, 0, 1, **said), **settings).model.notes
    assert len(notes) == (note is not None)
    assert all(one.startswith("SAEs of layers 0, 1: ") and note in one for one in notes)


def test_another_format_and_keys_that_nothing_is_made_of_are_told(tmp_path, llama):
    file = saes(tmp_path, 1) / "sae_1" / "cfg.json"
    changes = {"dtype": "torch.bfloat16", "input_gain": 3, "lr": 1e-4, "hook_layer": 1}
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    assert loaded(llama, tmp_path, layers=(1,)).model.notes == [
        "SAE of layer 1: kept in bfloat16 and run in float32",
        "SAE of layer 1: nothing is made of input_gain in the configuration: not known here",
    ]


def test_a_fine_tune_is_measured_with_the_saes_of_its_base_only_when_asked(tmp_path, llama):
    saes(tmp_path, 1, model_name="meta-llama/Llama-Base")
    with pytest.raises(UsageError, match=r"trained on meta-llama/Llama-Base.*--allow-other-model"):
        loaded(llama, tmp_path, layers=(1,))
    worker = loaded(llama, tmp_path, layers=(1,), allow_other_model=True)
    (tmp_path / "in.jsonl").write_text('{"text": "The sky is blue"}\n')
    run, _ = run_with(worker, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN")
    note = "SAE of layer 1: trained on meta-llama/Llama-Base, and measured on llama"
    assert run.manifest["notes"][0].startswith(note)
    assert run.manifest["saes"][0]["trained_on"] == "meta-llama/Llama-Base"
    assert note in (tmp_path / "RUN" / "log.jsonl").read_text()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"hook_name": "blocks.2.hook_resid_post"}, "and the run reads"),
        ({"d_model": 24}, "reads 24 dimensions"),
    ],
)
def test_width_and_hook_are_checked_for_any_model(tmp_path, llama, said, message):
    saes(tmp_path, 1, model_name="base", **said)
    with pytest.raises(UsageError, match=message):
        loaded(llama, tmp_path, layers=(1,), allow_other_model=True)


def test_the_embedded_saes_have_no_caveat():
    assert load_worker(RunConfig(), "text").model.notes == []
