"""The table of models and SAEs is measured, says what is wrong, and names all that is tried."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

from bench import architecture_table, sae_table
from bench.architectures import ARCHITECTURES
from bench.models import DOCUMENT, document
from bench.sae_kinds import KINDS, NORMALIZATIONS
from streamer.computing.model.native import NativeForward
from streamer.computing.sae.layer_sae import LayerSae

NORMAL = ("none", "layer_norm", "expected_average_only_in")


@pytest.fixture(autouse=True)
def few(monkeypatch) -> None:
    """Two formats, two hooks and three normalisations, so that a test takes seconds."""
    two = ("float32", "float64")
    for table in (architecture_table, sae_table):
        formats = {name: table.FORMATS[name] for name in two}
        monkeypatch.setattr(table, "FORMATS", formats)
    hooks = {name: sae_table.HOOKS[name] for name in ("hook_resid_post", "attn.hook_z")}
    monkeypatch.setattr(sae_table, "HOOKS", hooks)
    monkeypatch.setattr(sae_table, "NORMALIZATIONS", {n: NORMALIZATIONS[n] for n in NORMAL})


def cells(text: str, *begin: str) -> list[str]:
    """The cells of the one line that begins with these."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {' | '.join(begin)} |"))
    return line.strip("| ").split(" | ")


def test_what_is_measured_stands_beside_what_is_refused():
    text, wrong = document(["Mistral", "T5"], ["topk", "temporal"])
    assert wrong == []
    mistral = cells(text, "Mistral")
    assert mistral[1] == "native, texts share rows"
    assert 1e-8 < float(mistral[2]) < 1e-5
    assert 1e-17 < float(mistral[3]) < 1e-13
    assert "the model t5 is an encoder-decoder" in cells(text, "T5")[1]
    for normalization in ("none", "layer_norm"):
        topk = cells(text, "topk", normalization)
        assert 1e-8 < float(topk[2]) < 1e-5
        assert 1e-17 < float(topk[3]) < 1e-13
    assert "divides its input" in cells(text, "every kind above", "expected_average_only_in")[2]
    assert "other positions of the text" in cells(text, "temporal", "any")[2]
    assert "/tmp" not in text


def test_a_forward_that_is_wrong_shows_in_bold(monkeypatch):
    forward = NativeForward.__call__

    def a_little_off(self: NativeForward, *given: Any) -> torch.Tensor:
        found = forward(self, *given)
        found[1] *= 1.001
        return found

    monkeypatch.setattr(NativeForward, "__call__", a_little_off)
    text, wrong = document(["GPT-2"], [])
    assert wrong == ["GPT-2"]
    assert cells(text, "GPT-2")[1] == "native, texts share rows"
    assert cells(text, "GPT-2")[2:] == ["**1e-3**", "**1e-3**"]


def test_an_sae_that_forgets_its_bias_shows_in_bold(monkeypatch):
    encode = LayerSae.encode

    def without_bias(self: LayerSae, x: torch.Tensor) -> torch.Tensor:
        return encode(self, x + self.b_dec)

    monkeypatch.setattr(LayerSae, "encode", without_bias)
    text, wrong = document([], ["standard"])
    assert wrong == ["standard, none", "standard, layer_norm"]
    assert "**" in cells(text, "standard", "none")[2]


def test_features_that_rounding_does_not_explain_are_wrong():
    assert not sae_table.Difference(1e-7, flips=1, of=2000).is_wrong("float32")
    assert sae_table.Difference(1e-7, flips=3, of=2000).is_wrong("float32")
    assert sae_table.Difference(float("nan"), of=10).is_wrong("--bf16")


def test_every_kind_that_saelens_has_is_tried():
    tried = {(kind.architecture, kind.is_of_training) for kind in KINDS.values()}
    assert {(name, False) for name in SAE_CLASS_REGISTRY} <= tried
    assert {(name, True) for name in SAE_TRAINING_CLASS_REGISTRY} <= tried


def test_the_document_names_all_that_is_tried_and_nothing_wrong():
    """Or `make models` is to be run again."""
    text = Path(DOCUMENT).read_text("utf-8")
    assert [name for name in ARCHITECTURES if f"| {name} |" not in text] == []
    assert [name for name in (*KINDS, *NORMALIZATIONS) if name not in text] == []
    assert "**" not in "".join(line for line in text.splitlines() if line.startswith("|"))
